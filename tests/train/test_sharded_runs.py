"""Each kind of run with sharded parameters on two processes, beside the same run on one."""

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from llama_omni.model.tokenizer import load_tokenizer
from llama_omni.train.runner import train
from tests.train import test_encoder_pretraining as hearing
from tests.train import test_lm as reading
from tests.train.talk import examples, stage_one, stage_two, talking_model
from tests.train.test_encoder_pretraining import TEXTS
from tests.train.test_lm import RECORDS

RUN = {"max_steps": 4, "eval_every": 2, "save_every": 2, "device": "cpu", "tensorboard": False}
KINDS = ("lora", "whole", "speech", "lm", "encoder")
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.train.test_sharded_runs import KINDS, run
for kind in KINDS:
    run(kind, Path(sys.argv[1]), Path(sys.argv[1]) / f"two-{{kind}}", batch_size=4, sharding="fsdp")
"""


def run(kind, tokenizers, output, **changes):
    """Train one kind; the tokenisers lie where the test put them."""
    changes = RUN | changes
    if kind in ("lora", "whole", "speech"):
        rows, (model, tokenizer) = examples(), talking_model()
        more = {"llm": kind, "lora_dropout": 0.0} if kind != "speech" else {}
        more |= {"max_new_tokens": 4}
        make = stage_two if kind == "speech" else stage_one
        task = make(model, tokenizer, rows=rows[:2], samples=output / "s", **changes, **more)
        settings, lengths = task._settings, rows.lengths
    else:
        module, words = (reading, "lm-words") if kind == "lm" else (hearing, "encoder-words")
        task, rows = module.task_for(load_tokenizer(tokenizers / words))
        task._samples = output / "samples"
        lengths = rows.lengths if kind == "lm" else [len(row.audio) for row in rows]
        metric = "accuracy" if kind == "lm" else "wer"
        settings = module.settings_for(metric=metric, **changes)
    return train(task, rows, lengths, settings, output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    texts = [text for record in RECORDS for text in (record.question, record.answer)]
    reading.train_tokenizer(texts, folder / "lm-words", num_tokens=320, vocab_size=330)
    hearing.train_tokenizer(TEXTS, folder / "encoder-words", num_tokens=300, vocab_size=310)
    (folder / "run.py").write_text(SCRIPT.format(root=os.path.abspath(".")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    done = subprocess.run(
        [*launch, str(folder / "run.py"), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_sharded_run_gives_the_weights_of_a_whole_one(folder, kind):
    one = run(kind, folder, folder / f"one-{kind}", batch_size=8)
    assert one.done
    for product in ("final", "best"):
        paths = list((folder / f"one-{kind}" / product).glob("*.safetensors"))
        assert paths
        for path in paths:
            expected = load_file(path)
            found = load_file(folder / f"two-{kind}" / product / path.name)
            assert found.keys() == expected.keys()
            for name, value in found.items():
                assert_close(value, expected[name], rtol=1e-3, atol=1e-4, msg=name)
