"""Write the parts of the documentation that follow from the code: `python docs/generate.py`.

`docs/cli.md` comes from the commands' own declarations, the list of files in both READMEs from the
first line of each file's docstring. `tests/test_house.py` fails where either is out of date.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

from llama_omni.cli import app

ROOT = Path(__file__).parents[1]
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
CLI_PAGE = ROOT / "docs" / "cli.md"

# What is no Python file of the package: one line each, in the order of the list.
OTHERS = {
    "benchmarks/": "published measurements, their commands and results",
    "docs/": "how it works, why it is so, and what was measured",
    "examples/": "a spoken question",
    "runs/": "whole jobs, such as the demo",
    "tests/": "mirrors the package; `golden/` holds tensors of the reference",
}
NAME_COLUMNS = 24


class Parameter(NamedTuple):
    """One argument or option of a command, as it is shown."""

    name: str
    info: ArgumentInfo | OptionInfo
    default: str
    required: bool


def cli_reference() -> str:
    """Return `docs/cli.md`: every command with its arguments, options and defaults."""
    parts = ["# Command line", "Made by `python docs/generate.py` from the commands' declarations."]
    parts += [app.info.help or "", "```text\nllama-omni COMMAND [OPTIONS]\n```"]
    parts.append(_table(app.registered_callback))
    for name, command in _commands(app):
        words = [f"llama-omni {name} [OPTIONS]"]
        for each in _parameters(command):
            if isinstance(each.info, ArgumentInfo):
                words.append(each.name if each.required else f"[{each.name}]")
        about = inspect.getdoc(command.callback) or ""
        parts += [f"## {name}", _paragraphs(about), f"```text\n{' '.join(words)}\n```"]
        parts.append(_table(command))
    return "\n\n".join(parts) + "\n"


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with its whole name, those of groups after the others."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield prefix + (command.name or command.callback.__name__), command
    for inner in group.registered_groups:
        yield from _commands(inner.typer_instance, f"{prefix}{inner.name} ")


def file_structure() -> str:
    """Return the list of files, one line each, as it stands in the READMEs."""
    lines = ["```text"]
    package = ROOT / "llama_omni"
    for folder in (package, *sorted(path for path in package.rglob("*") if _is_package(path))):
        depth = len(folder.relative_to(package).parts)
        about = _about(folder / "__init__.py")
        lines.append(_line(f"{'  ' * depth}{folder.name}/", about))
        for file in sorted(folder.glob("*.py")):
            if file.name != "__init__.py":
                lines.append(_line(f"{'  ' * (depth + 1)}{file.name}", _about(file)))
    lines += [_line(name, about) for name, about in OTHERS.items()]
    return "\n".join([*lines, "```"])


def with_file_structure(page: str) -> str:
    """Return a README with its list of files renewed."""
    block = re.compile(r"```text\nllama_omni/.*?```", re.DOTALL)
    if not block.search(page):
        raise ValueError("a README must hold a text block that begins with llama_omni/")
    return block.sub(lambda _: file_structure(), page, count=1)


def main() -> None:
    """Write every generated part."""
    CLI_PAGE.write_text(cli_reference(), encoding="utf-8")
    for readme in READMES:
        page = readme.read_text(encoding="utf-8")
        readme.write_text(with_file_structure(page), encoding="utf-8")


def _is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()


def _about(file: Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")


def _line(name: str, about: str) -> str:
    return f"{name:<{NAME_COLUMNS}} {about}".rstrip()


def _paragraphs(text: str) -> str:
    """Join the lines of each paragraph."""
    return "\n\n".join(" ".join(each.split()) for each in text.split("\n\n"))


def _table(command: Any) -> str:
    rows = ["| option | meaning | default |", "| --- | --- | --- |"]
    for each in _parameters(command):
        cells = (f"`{each.name}`", each.info.help or "", each.default)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _parameters(command: Any) -> list[Parameter]:
    """Read what a command declares; typer's own classes of it differ from version to version."""
    hints = get_type_hints(command.callback, include_extras=True)
    signature = inspect.signature(command.callback).parameters
    return [_parameter(key, hints[key], signature[key].default) for key in signature]


def _parameter(key: str, hint: Any, value: Any) -> Parameter:
    kind, info = hint.__origin__, hint.__metadata__[0]
    required = value is inspect.Parameter.empty
    if isinstance(info, ArgumentInfo):
        name = info.metavar or key.upper()
    else:
        # Under Annotated, typer keeps the first of an option's names where a default would be.
        names = [n for n in (info.default, *(info.param_decls or ())) if isinstance(n, str)]
        name = ", ".join(sorted(names or [f"--{key.replace('_', '-')}"], key=len))
        choices = "|".join(kind) if isinstance(kind, type) and issubclass(kind, StrEnum) else ""
        name += "" if kind is bool else f" {info.metavar or choices}"
    if isinstance(info.show_default, str):
        default = info.show_default
    elif required:
        default = "required"
    else:
        default = "" if value is None or value is False else f"`{value}`"
    return Parameter(name, info, default, required)


if __name__ == "__main__":
    main()
