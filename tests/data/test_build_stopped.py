"""`llama-omni data build` that is told to end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llama_omni.data.build import build
from llama_omni.data.named import find_recipe, with_paths
from llama_omni.overrides import override
from tests.data.data_tools import FAKES, contents, write_questions

ROOT = Path(__file__).parents[2]
NUM = 90
SETTINGS = [
    "sources.0.columns.question=instruction",
    "voices.question=fake:a",
    "voices.answer=fake:answer",
    "part_rows=4",
]
SCRIPT = """
import sys
from functools import partial
from llama_omni.data import build
from tests.data.data_tools import FAKES
if __name__ == "__main__":
    build.build = partial(build.build, tools=FAKES)
    from llama_omni.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def _children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("processes", "group"), [(1, False), (2, False), (2, True)], ids=["one", "two", "whole group"]
)
def test_sigterm_ends_a_build_as_ctrl_c_does_and_loses_nothing(tmp_path, processes, group):
    questions, output = write_questions(tmp_path / "q.jsonl", NUM), tmp_path / "set"
    (tmp_path / "script.py").write_text(SCRIPT)
    words = ["data", "build", "custom", "--source", questions, "-o", output]
    words += ["--processes", processes, *(word for one in SETTINGS for word in ("--set", one))]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "FAKE_PAUSE_S": "0.05"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    while not list(output.glob(".work/synthesise/*.done")):
        assert process.poll() is None, process.stderr.read()
        signal.sigtimedwait([], 0.02)
    children = _children(process.pid)
    assert len(children) >= (processes if processes > 1 else 0)
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("llama-omni: interrupted\n")
    assert "leaked" not in said
    assert "Traceback" not in said
    for child in children:
        for _ in range(100):
            if not Path(f"/proc/{child}").exists():
                break
            signal.sigtimedwait([], 0.1)
        assert not Path(f"/proc/{child}").exists()
    assert not (output / "manifest.json").exists()
    recipe = override(with_paths(find_recipe("custom"), [str(questions)]), SETTINGS)
    build(recipe, output, tools=FAKES)
    build(recipe, tmp_path / "whole", tools=FAKES)
    assert contents(output) == contents(tmp_path / "whole")
