"""A run's folder where a model's is wanted: the message names the model in it."""

import re

import pytest

from llama_omni import loading
from llama_omni.checkpoint.native import load_model, load_vocoder
from llama_omni.errors import CheckpointError
from llama_omni.model.presets import preset
from llama_omni.train.assemble import assemble, read_llm


def make_run(folder, *products):
    """A training's folder: each product has a configuration, the folder itself has none."""
    for product in products:
        (folder / product).mkdir(parents=True, exist_ok=True)
        (folder / product / "config.json").write_text("{}")
    return folder


OPENERS = {
    "model": load_model,
    "assistant": loading.load,
    "vocoder": load_vocoder,
    "llm": lambda folder: read_llm(str(folder)),
    "encoder": lambda folder: assemble(preset("tiny"), llm="nowhere", encoder=folder),
}


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_a_run_given_as_a_model_is_told_apart_by_the_model_in_it(opener, tmp_path):
    run = make_run(tmp_path / "run", "final", "best")
    message = f"{run} is a run; its model is {run / 'best'}"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        opener(run)


@pytest.mark.parametrize(
    ("products", "named"),
    [
        (("stage1/best", "stage1/final", "stage2/final", "stage2/best"), "stage2/best"),
        (("stage1/final", "stage2/final"), "stage2/final"),
        (("stage1/final", "stage1/best"), "stage1/final"),
        (("final",), "final"),
    ],
)
def test_of_several_models_the_last_and_best_is_named(products, named, tmp_path):
    run = make_run(tmp_path / "run", *products)
    with pytest.raises(CheckpointError, match=f"its model is {run / named}$"):
        load_model(run)


def test_a_folder_with_a_configuration_or_no_product_is_no_run(tmp_path):
    run = make_run(tmp_path / "run", "best", ".")
    with pytest.raises(CheckpointError, match="model_type in"):
        load_model(run)
    (tmp_path / "empty" / "best").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"config\.json must be a readable file"):
        load_model(tmp_path / "empty")
