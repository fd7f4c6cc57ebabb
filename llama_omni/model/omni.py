"""The whole model up to unit logits: encoder, adapter, LLM, speech decoder, and their losses.

A `PreTrainedModel`, so `from_pretrained`, sharded safetensors, `device_map`, quantisation and FSDP
work as users of Transformers expect. The vocoder is a model of its own: voices can be exchanged.
Generation lives in `engine`; here is what training and parity tests need.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.generic import ModelOutput

from llama_omni.audio import HOP
from llama_omni.errors import ConfigError, InputError, TargetError
from llama_omni.model.adapter import SpeechAdapter
from llama_omni.model.config import OmniConfig
from llama_omni.model.ctc import ctc_loss
from llama_omni.model.encoder import SpeechEncoder, feature_lengths, log_mel
from llama_omni.model.speech_decoder import FrameEmbedding, SpeechDecoder
from llama_omni.prompt import IGNORE, SPEECH_TOKEN


@dataclass
class OmniOutput(ModelOutput):
    """What one training step gives. A loss is None where its targets were not given."""

    loss: Tensor | None = None
    lm_loss: Tensor | None = None  # mean cross-entropy over labelled tokens
    ctc_loss: Tensor | None = None  # per target unit
    logits: Tensor | None = None  # (B, T, V)
    hidden: Tensor | None = None  # (B, T, D) after the LLM's final norm
    unit_logits: Tensor | None = None  # (B, L, K + 1)
    frame_lengths: Tensor | None = None  # (B,)


@dataclass
class Merged:
    """Rows of tokens and speech as one sequence of embeddings, padded on the right."""

    embeddings: Float[Tensor, "B T D"]
    mask: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    token_ids: Int[Tensor, "B T"]  # SPEECH_TOKEN at speech, 0 at padding


class OmniModel(PreTrainedModel):
    """Speech in; reply tokens, their hidden states and unit logits out."""

    config_class = OmniConfig
    config: OmniConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["WhisperEncoderLayer", "LlamaDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: OmniConfig) -> None:
        super().__init__(config)
        llm_dim = config.llm.hidden_size
        self.encoder = SpeechEncoder(config.encoder)
        self.encoder.requires_grad_(False)  # frozen throughout, as in the paper
        self.adapter = SpeechAdapter(
            config.adapter, encoder_dim=config.encoder.d_model, llm_dim=llm_dim
        )
        self.llm = AutoModelForCausalLM.from_config(config.llm)
        self.speech_decoder = SpeechDecoder(config.speech_decoder, llm_dim=llm_dim)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, FrameEmbedding):
            # Places must differ from the start: at 0.02 most copies of a state share a label.
            nn.init.normal_(module.weight, std=0.1)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        """Return the LLM's token embeddings."""
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the LLM's token embeddings."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the LLM's output layer; `token_logits` also does what its family does after it."""
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the LLM's output layer."""
        self.llm.set_output_embeddings(new_embeddings)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load weights as Transformers does; the encoder comes frozen."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        model.encoder.requires_grad_(False)
        return loaded

    def train(self, mode: bool = True) -> "OmniModel":
        """Switch to training; the frozen encoder stays as it is in use, without dropout."""
        super().train(mode)
        self.encoder.eval()
        return self

    def token_logits(
        self, hidden: Float[Tensor, "... D"], *, head: nn.Module | None = None
    ) -> Float[Tensor, "... V"]:
        """Score the next token, with the scaling or capping that the LLM's family applies.

        Args:
            hidden: (..., D) states after the final norm.
            head: output layer of another LLM of the same configuration; None: this model's own.
        """
        config: Any = self.config.llm
        logits = (head or self.get_output_embeddings())(hidden)
        if scaling := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / scaling
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
            logits = (logits / cap).tanh() * cap
        return logits

    def embed_speech(
        self, waveform: Float[Tensor, "B S"], lengths: Int[Tensor, " B"] | None = None
    ) -> list[Float[Tensor, "_ D"]]:
        """Turn 16 kHz sound into speech embeddings, one tensor a row; the adapter can learn.

        Args:
            waveform: (B, S), padded on the right.
            lengths: (B,) samples of each row; None: all.
        """
        mel, mel_lengths = self.mel(waveform, lengths)
        with torch.no_grad():
            features = self.encoder(mel.to(self.dtype), mel_lengths)
        return self.adapt(features, mel_lengths)

    def mel(
        self, waveform: Float[Tensor, "B S"], lengths: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B n_mels F"], Int[Tensor, " B"]]:
        """Compute log-mel as this model wants it: the whole window, or each row's own length."""
        num_mels, window = self.config.encoder.num_mel_bins, self.encoder.window
        B, S = waveform.shape
        if self.config.pad_to_window:
            fitted = nn.functional.pad(waveform, (0, max(0, window * HOP - S)))[:, : window * HOP]
            mel = log_mel(fitted, num_mels=num_mels)
            return mel, torch.full((B,), window, device=waveform.device)
        samples = [S] * B if lengths is None else lengths.tolist()
        rows = [
            log_mel(row[None, :n], num_mels=num_mels)[0]
            for row, n in zip(waveform, samples, strict=True)
        ]
        mel_lengths = torch.tensor([row.shape[-1] for row in rows], device=waveform.device)
        padded = nn.utils.rnn.pad_sequence([row.T for row in rows], batch_first=True)
        return padded.transpose(1, 2), mel_lengths  # (B, n_mels, F)

    def adapt(
        self, features: Float[Tensor, "B N E"], mel_lengths: Int[Tensor, " B"]
    ) -> list[Float[Tensor, "_ D"]]:
        """Shorten and project features; keep each row's own speech embeddings."""
        adapted = self.adapter(features)  # (B, P, D)
        kept = feature_lengths(mel_lengths) // self.config.adapter.stack
        return [row[:count] for row, count in zip(adapted, kept.tolist(), strict=True)]

    def merge(
        self,
        input_ids: Int[Tensor, "B I"],
        speech: list[Float[Tensor, "_ D"]],
        *,
        attention_mask: Int[Tensor, "B I"] | None = None,
        labels: Int[Tensor, "B I"] | None = None,
    ) -> Merged:
        """Put speech embeddings in their places among the tokens' own.

        Args:
            input_ids: token ids, SPEECH_TOKEN once for each spoken turn.
            speech: embeddings of the spoken turns, in the order of their places, row by row.
            attention_mask: 0 at padding, which is dropped.
            labels: -100 where nothing is to be learnt.

        Raises:
            InputError: places and spoken turns do not number the same.

        Source:
            Reference `prepare_inputs_labels_for_speech_and_text`; rows are cut to
            `config.max_positions` after the speech is in.
        """
        places = int((input_ids == SPEECH_TOKEN).sum())
        if places != len(speech):
            raise InputError(f"input_ids hold {places} places for speech, got {len(speech)} turns")
        turns = iter(speech)
        rows = []
        for row, ids in enumerate(input_ids):
            kept = slice(None) if attention_mask is None else attention_mask[row].bool()
            row_labels = torch.full_like(ids, IGNORE) if labels is None else labels[row]
            rows.append(self._merge_row(ids[kept], row_labels[kept], turns))
        pad = nn.utils.rnn.pad_sequence
        lengths = torch.tensor([len(ids) for _, _, ids in rows], device=input_ids.device)
        T = int(lengths.max())
        return Merged(
            embeddings=pad([row[0] for row in rows], batch_first=True),
            mask=(torch.arange(T, device=input_ids.device) < lengths[:, None]).long(),
            labels=pad([row[1] for row in rows], batch_first=True, padding_value=IGNORE),
            token_ids=pad([row[2] for row in rows], batch_first=True),
        )

    def _merge_row(self, ids: Tensor, labels: Tensor, turns: Any) -> tuple[Tensor, Tensor, Tensor]:
        embed = self.get_input_embeddings()
        embeddings, kept_labels, kept_ids, start = [], [], [], 0
        for place in [*(ids == SPEECH_TOKEN).nonzero()[:, 0].tolist(), len(ids)]:
            embeddings.append(embed(ids[start:place]))
            kept_labels.append(labels[start:place])
            kept_ids.append(ids[start:place])
            if place < len(ids):
                turn = next(turns).to(embeddings[0])  # (P, D)
                embeddings.append(turn)
                kept_labels.append(labels.new_full((len(turn),), IGNORE))
                kept_ids.append(ids.new_full((len(turn),), SPEECH_TOKEN))
            start = place + 1
        limit = self.config.max_positions
        return (
            torch.cat(embeddings)[:limit],
            torch.cat(kept_labels)[:limit],
            torch.cat(kept_ids)[:limit],
        )

    def forward(
        self,
        input_ids: Int[Tensor, "B I"],
        speech: list[Float[Tensor, "_ D"]] | None = None,
        attention_mask: Int[Tensor, "B I"] | None = None,
        labels: Int[Tensor, "B I"] | None = None,
        units: Int[Tensor, "B U"] | None = None,
        *,
        ctc_states: str | None = None,
        normaliser: Tensor | int | None = None,
        lm_normaliser: Tensor | int | None = None,
    ) -> OmniOutput:
        """Run the LLM over prompt, speech and answer, and the speech decoder over the answer.

        Args:
            input_ids: see `merge`.
            speech: see `merge`.
            attention_mask: see `merge`.
            labels: (B, I) unshifted answer tokens, -100 elsewhere; gives `lm_loss`.
            units: (B, U) reduced target units padded with -100; gives `ctc_loss`. Needs labels,
                which say where each answer is.
            ctc_states: overrides `config.ctc_states`.
            normaliser: what the CTC loss is divided by; None is this batch's unit count.
            lm_normaliser: what the LM loss is divided by; None is this batch's answer tokens.

        Returns:
            Losses and logits; `loss` is `lm_loss + ctc_loss_weight * ctc_loss` of those given.

        Raises:
            TargetError: an answer is empty, or was cut at `config.max_positions` and so no longer
                fits its units; names the sample.
        """
        merged = self.merge(input_ids, speech or [], attention_mask=attention_mask, labels=labels)
        hidden = self.read(merged)
        logits = self.token_logits(hidden)  # (B, T, V)
        output = OmniOutput(logits=logits, hidden=hidden)
        if labels is not None:
            self._check_answers(labels, merged, spoken=units is not None)
            output.lm_loss = token_loss(
                logits[:, :-1].flatten(0, 1),
                merged.labels[:, 1:].flatten(),
                normaliser=lm_normaliser,
            )
        if units is not None:
            if labels is None:
                raise InputError("units need labels, which say where each answer is; got none")
            states, tokens, lengths = self.answer_states(hidden, merged, ctc_states)
            unit_logits, frames = self.speech_decoder(
                states, tokens, lengths=lengths, target_lengths=(units != IGNORE).sum(dim=1)
            )
            output.unit_logits, output.frame_lengths = unit_logits, frames
            output.ctc_loss = ctc_loss(unit_logits, frames, units, normaliser=normaliser)
        if output.lm_loss is not None and output.ctc_loss is not None:
            output.loss = output.lm_loss + self.config.ctc_loss_weight * output.ctc_loss
        else:
            output.loss = output.ctc_loss if output.lm_loss is None else output.lm_loss
        return output

    def read(self, merged: Merged) -> Float[Tensor, "B T D"]:
        """Run the LLM over merged rows; return its states after the final norm."""
        return self.llm.get_decoder()(
            inputs_embeds=merged.embeddings, attention_mask=merged.mask, use_cache=False
        ).last_hidden_state

    def _check_answers(self, labels: Tensor, merged: Merged, *, spoken: bool) -> None:
        wanted = (labels != IGNORE).sum(dim=1).tolist()
        found = (merged.labels[:, 1:] != IGNORE).sum(dim=1).tolist()
        if not any(found):
            raise TargetError("labels must mark an answer, got a batch without any")
        for row, (before, after) in enumerate(zip(wanted, found, strict=True)):
            if spoken and (after == 0 or after < before):
                raise TargetError(
                    f"sample {row}: an answer of {before} tokens must fit "
                    f"max_positions={self.config.max_positions} behind its prompt, got room for "
                    f"{after}; drop the sample or shorten its prompt"
                )

    def answer_states(
        self, hidden: Float[Tensor, "B T D"], merged: Merged, ctc_states: str | None = None
    ) -> tuple[Float[Tensor, "B M D"], Float[Tensor, "B M D"] | None, Int[Tensor, " B"]]:
        """Select what the speech decoder hears of each answer, padded on the right.

        Returns:
            The states that predict the labelled tokens (or, for "labelled", stand at them), the
            tokens' own embeddings if the decoder takes them, and the answers' lengths.

        Source:
            Algorithm 1 (predicting); the released `forward` (labelled).
        """
        which = ctc_states or self.config.ctc_states
        if which not in ("predicting", "labelled"):
            raise ConfigError(f"ctc_states must be predicting or labelled, got {which!r}")
        answer = merged.labels != IGNORE  # (B, T)
        answer[:, 0] &= which == "labelled"  # nothing predicts the first position
        shift = 1 if which == "predicting" else 0
        pad = nn.utils.rnn.pad_sequence
        states = [
            row[chosen.nonzero()[:, 0] - shift] for row, chosen in zip(hidden, answer, strict=True)
        ]
        tokens = None
        if self.config.speech_decoder.token_embedding:
            embed = self.get_input_embeddings()
            rows = [
                embed(row[chosen]) for row, chosen in zip(merged.token_ids, answer, strict=True)
            ]
            tokens = pad(rows, batch_first=True)
        return pad(states, batch_first=True), tokens, answer.sum(dim=1)


def token_loss(
    logits: Float[Tensor, "N V"],
    labels: Int[Tensor, " N"],
    *,
    normaliser: Tensor | int | None = None,
) -> Float[Tensor, ""]:
    """Compute the cross-entropy, summed over labelled tokens and divided by their number.

    Args:
        logits: (N, V) scores of the token at each place.
        labels: (N,) that token, -100 where nothing is to be learnt.
        normaliser: what to divide by instead: the global count, where several ranks or accumulation
            steps share one optimiser step.
    """
    summed = nn.functional.cross_entropy(
        logits.float(), labels, ignore_index=IGNORE, reduction="sum"
    )
    return summed / ((labels != IGNORE).sum() if normaliser is None else normaliser)
