"""Golden folders, and a released-layout model of that size, for every test that needs one."""

import json
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file

# A shell that starts tests in the background has them ignore Ctrl-C, and so would their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")

OWN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared" / "golden"


def pytest_addoption(parser):
    parser.addoption(
        "--golden", type=Path, help="golden folder to check instead of the one in tests/golden"
    )


def pytest_generate_tests(metafunc):
    if "golden" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--golden")
        folders = [chosen] if chosen else [OWN, *([SHARED] if SHARED.is_dir() else [])]
        names = ["given"] if chosen else ["own", "shared"][: len(folders)]
        metafunc.parametrize("golden", folders, ids=names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def golden(request) -> Path:
    """A folder in the layout of MANIFEST.json."""
    return request.param


@pytest.fixture(scope="session")
def golden_tensors(golden) -> dict[str, torch.Tensor]:
    """Inputs and outputs of the reference model."""
    return load_file(golden / "omni/inputs.safetensors") | load_file(
        golden / "omni/outputs.safetensors"
    )


@pytest.fixture(scope="session")
def golden_model(golden, tmp_path_factory):
    """The reference's tiny model, converted from its official layout."""
    from llama_omni.checkpoint import convert, load_model

    folder = tmp_path_factory.mktemp("converted") / "model"
    convert(source=golden / "omni", output=folder)
    return load_model(folder, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="session")
def streaming(golden) -> dict:
    """What the reference's streaming did, step by step."""
    return json.loads((golden / "omni/streaming.json").read_text())


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
