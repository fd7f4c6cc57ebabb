"""Put a trained model into one folder as it is shipped: float16, vocoder, units, nothing else.

python runs/embed.py --model STAGE2 --vocoder VOCODER --units UNITS -o llama_omni/assets/tiny
"""

import argparse
import shutil
import sys
from pathlib import Path

from llama_omni.checkpoint.native import load_model, load_vocoder, quiet_transformers
from llama_omni.errors import InputError, LlamaOmniError
from llama_omni.loading import load
from llama_omni.model.tokenizer import load_tokenizer
from llama_omni.train.checkpoints import write_folder

MOST_BYTES = 30_000_000
CARD = "README.md"  # written by hand, kept
UNITS = ("kmeans.npy", "features.json")  # what the units mean


def main() -> int:
    """Write the folder, then load it again and answer a question with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vocoder", type=Path, required=True)
    parser.add_argument("--units", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        embed(options.model, options.vocoder, options.units, options.output)
    except LlamaOmniError as error:
        print(f"embed: error: {error}", file=sys.stderr)
        return 2
    return 0


def embed(model: Path, vocoder: Path, units: Path, output: Path) -> None:
    """Write the folder in place of what was there, but for its card.

    Raises:
        LlamaOmniError: a part is missing, or what they make is too large or does not answer; what
            was there before stays.
    """
    for name in UNITS:
        if not (units / name).is_file():
            raise InputError(f"{units} must hold {' and '.join(UNITS)}, got no {name}")
    omni, voice = load_model(model), load_vocoder(vocoder)
    omni.config.llm.name_or_path = ""  # of an older run: a path
    tokenizer = load_tokenizer(model)

    def fill(folder: Path) -> None:
        if (output / CARD).is_file():
            shutil.copyfile(output / CARD, folder / CARD)
        with quiet_transformers():
            omni.half().save_pretrained(folder)
            voice.half().save_pretrained(folder / "vocoder")
        tokenizer.inner.save_pretrained(folder)
        for name in ("recipe.json", "generation_config.json"):
            if (model / name).is_file():
                shutil.copyfile(model / name, folder / name)
        for name in UNITS:
            shutil.copyfile(units / name, folder / name)
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)  # written for their owner alone
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{output}: {size / 1e6:.1f} MB, {omni.num_parameters() / 1e6:.2f} M parameters and")
        print(f"{voice.num_parameters() / 1e6:.2f} M of the vocoder")
        if size > MOST_BYTES:
            raise LlamaOmniError(f"{output} must be at most {MOST_BYTES:,} bytes, got {size:,}")
        reply = load(folder).reply(Path(__file__).parents[1] / "examples" / "question.wav")
        print(f"answers the example with: {reply.text}")

    write_folder(output, fill)


if __name__ == "__main__":
    sys.exit(main())
