import sys
import types

from llama_omni.train.tracking import Tracking


def test_runs_of_one_name_are_told_apart_and_go_on_under_their_own(tmp_path, monkeypatch):
    begun = []
    wandb = types.SimpleNamespace(init=lambda **values: begun.append(values))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for name, step in (("a", 0), ("b", 0), ("a", 5)):
        output = tmp_path / name / "stage1"
        output.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        place = output if step == 0 else output.relative_to(tmp_path / name)
        Tracking(place, step=step, max_steps=9, wandb_project="speech")
    first, other, again = begun
    assert first["id"].startswith("stage1-")
    assert first["id"] != other["id"]
    assert again["id"] == first["id"]
    assert (first["name"], other["name"]) == ("a/stage1", "b/stage1")
    assert again["resume"] == "allow"
