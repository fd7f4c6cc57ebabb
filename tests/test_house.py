"""What keeps the documentation true and the house in order. `make check` runs this file."""

import ast
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = {".py", ".md", ".toml", ".json", ".cff", ".yml", ".yaml", ".sh", ""}
READMES = ("README.md", "README.zh-CN.md")
ADR_HEADINGS = ["Question", "Choice", "Because", "Rejected", "Held by"]
MAX_LINES, MEDIAN_LINES = 400, 200
CODE = re.compile(r"`([^`]+)`")


def tracked():
    """Files of the project: git's list in a checkout, else whatever lies in the folder."""
    if (ROOT / ".git").exists():
        done = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        found = [ROOT / name for name in done.stdout.split("\0") if name]
        return [path for path in found if path.is_file()]
    files = (path for path in ROOT.rglob("*") if path.is_file())
    hidden = (".venv", "__pycache__", ".git", "demo")
    return [path for path in files if not set(hidden) & set(path.relative_to(ROOT).parts)]


def relative(path):
    return path.relative_to(ROOT).as_posix()


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


PYTHON = [path for path in tracked() if path.suffix == ".py"]
ADRS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PAPER_ROWS = [
    line
    for line in read("docs/paper-map.md").splitlines()
    if re.match(r"\|(?! (paper|step|---) \|)", line)
]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def check_tests(names):
    """Every `file.py` and `file.py::test` that a text names is there; return how many."""
    found = [name for name in names if re.match(r"[\w/]+\.py(::\w+)?$", name)]
    for name in found:
        file, _, function = name.partition("::")
        paths = [ROOT / file] if "/" in file else list((ROOT / "tests").rglob(file))
        assert paths, f"{name}: no such file"
        assert paths[0].is_file(), f"{name}: no such file"
        assert not function or function in names_in(paths[0]), f"{name}: no such test"
    return len(found)


# Files


def test_no_python_file_is_long():
    lengths = {relative(path): path.read_text("utf-8").count("\n") for path in PYTHON}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}
    assert statistics.median(lengths.values()) < MEDIAN_LINES
    package = [n for name, n in lengths.items() if name.startswith("llama_omni/")]
    assert statistics.median(package) < MEDIAN_LINES


def test_no_file_names_a_place_of_one_machine_or_an_unowned_chore():
    places = re.compile(r"(?<![\w.])(/(home|root|Users|work|mnt|tmp)/|[A-Z]:\\\\)\w")
    chore = re.compile(r"\b" + "TO" + r"DO\b(?!\(#\d+\))")
    for path in tracked():
        if path.suffix in TEXT and path.name != "tokenizer.json":
            text = path.read_text(encoding="utf-8")
            for rule in (places, chore):
                assert not rule.search(text), f"{relative(path)}: {rule.search(text)}"


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param("llama_omni", id="package"),
        pytest.param(
            "llama_omni.interfaces llama_omni.audio llama_omni.prompt llama_omni.metrics "
            "llama_omni.errors llama_omni.cli",
            id="light",
        ),
    ],
)
def test_light_modules_load_no_torch(modules):
    code = f"import sys, {', '.join(modules.split())}; print({{'torch', 'transformers'}}"
    code += " & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# Decisions


@pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
def test_decision_has_its_parts_and_is_held_by_something(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(path.name[:4])}. ")
    assert re.findall(r"^\*\*([^*]+)\.\*\*", text, re.MULTILINE) == ADR_HEADINGS
    held_by = text.split("**Held by.**")[1]
    assert check_tests(CODE.findall(held_by)), "name a test that fails if this is undone"


def test_decisions_are_numbered_once():
    numbers = [path.name[:4] for path in ADRS]
    assert len(numbers) == len(set(numbers))
    for path in PYTHON:
        for number in re.findall(r"\bADR (\d{4})\b", path.read_text(encoding="utf-8")):
            assert number in numbers, f"{relative(path)} cites ADR {number}"


# The paper


@pytest.mark.parametrize("row", PAPER_ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_row_of_the_paper_map_names_what_there_is(row):
    _, _symbol, _name, places, tests, _ = re.split(r"(?<!\\)\|", row)
    found = CODE.findall(places)
    assert found
    for place in found:
        file, _, path = place.partition(":")
        thing = importlib.import_module("llama_omni." + file.removesuffix(".py").replace("/", "."))
        for name in path.split("."):
            thing = getattr(thing, name)
    assert check_tests(CODE.findall(tests)), "name a test"


# Pages


def test_generated_parts_are_up_to_date():
    made = generator()
    hint = "run: python docs/generate.py"
    assert read("docs/cli.md") == made.cli_reference(), hint
    for page in READMES:
        assert made.file_structure() in read(page), f"{page}: {hint}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{relative(page)} links to {target}"


def test_readmes_say_the_same():
    english, chinese = (read(page) for page in READMES)
    every = r"^```(\w*)\n(.*?)^```"
    found = [re.findall(every, text, re.DOTALL | re.MULTILINE) for text in (english, chinese)]
    assert found[0] == found[1]
    prose = [re.sub(every, "", text, flags=re.DOTALL | re.MULTILINE) for text in (english, chinese)]
    levels = [re.findall(r"^#+(?= )", text, re.MULTILINE) for text in prose]
    assert levels[0] == levels[1]


def commands(page):
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_shell_blocks_name_what_there_is(page):
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    reference = generator().cli_reference()
    for words in commands(relative(page)):
        match words:
            case ["make", *names]:
                assert set(names) <= set(targets), words
            case ["llama-omni", command, *rest]:
                while (
                    f"\n## {command}\n" not in reference and rest and f"## {command} " in reference
                ):
                    command = f"{command} {rest.pop(0)}"  # a command of a group
                section = reference.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
                known = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", section or reference)
                options = [word for word in (command, *rest) if word.startswith("-")]
                assert section or command.startswith("-"), f"{command} is no command"
                assert set(options) <= {*known, "--help"}, words
            case ["python" | ".venv/bin/python", "-m", module, *_]:
                assert importlib.util.find_spec(module), words
            case ["python" | ".venv/bin/python", script, *_]:
                assert (ROOT / script).is_file(), words
            case [script] if "/" in script:
                assert os.access(ROOT / script, os.X_OK), words
            case ["pip", "install", *_] | ["git" | "cd" | "source", *_]:
                pass
            case _:
                raise AssertionError(f"unknown command in {relative(page)}: {words}")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with the examples and nothing else, as the current one."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_blocks_of_the_readme_run(elsewhere, capsys):
    space = {}
    for number, block in enumerate(blocks("README.md", "python")):
        if "openai" in block:
            continue  # needs a server: tests/serve/test_embedded_server.py runs it
        exec(compile(block, f"README.md, python block {number + 1}", "exec"), space)
    assert (elsewhere / "answer.wav").stat().st_size > 44
    assert capsys.readouterr().out


def test_questions_of_the_readme_are_answered(elsewhere, capsys):
    from llama_omni.cli import main

    asked = [words for words in commands("README.md") if words[:2] == ["llama-omni", "ask"]]
    embedded = [words for words in asked if "--model" not in words]
    assert embedded
    for words in embedded:
        assert main(words[1:]) == 0
    said = capsys.readouterr().out
    assert "The capital of France is Paris." in said
    assert "time to first audio" in said


def test_citation_and_changelog_name_this_version():
    import llama_omni

    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == llama_omni.__version__
    assert citation["license"] == "Apache-2.0"
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2409.06666"
    changes = re.findall(r"^## \[([^\]]+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert changes[:2] == ["Unreleased", llama_omni.__version__]


def test_make_help_lists_every_target():
    makefile = read("Makefile")
    phony = re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE).group(1).split()
    explained = re.findall(r"^([a-z-]+):.*?##", makefile, re.MULTILINE)
    assert set(explained) == set(phony)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
