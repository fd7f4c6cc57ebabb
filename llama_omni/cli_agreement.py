"""`llama-omni evaluate agreement`: does a judge grade as it should?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_omni.cli_errors import note, one_line_errors
from llama_omni.cli_options import Debug
from llama_omni.errors import OutputError

if TYPE_CHECKING:
    from llama_omni.evaluate.agreement import AgreementReport

JudgeUrl = Annotated[
    str,
    typer.Option(
        help="A server of OpenAI's chat protocol, as https://api.openai.com/v1.", metavar="URL"
    ),
]
JudgeModel = Annotated[str, typer.Option(help="The judge, by the server's name.", metavar="NAME")]
JudgeSamples = Annotated[
    int, typer.Option(help="Grades per reply, of which the mean counts.", metavar="NUMBER")
]
JudgeTemperature = Annotated[float, typer.Option(help="Of the judge's sampling.", metavar="NUMBER")]
JudgeKey = Annotated[
    str, typer.Option(help="Environment variable that holds the key.", metavar="NAME")
]
JudgeCache = Annotated[
    Path | None,
    typer.Option(
        help="File of paid answers: asked again, they cost nothing.",
        metavar="FILE",
        show_default="none",
    ),
]
Price = Annotated[float, typer.Option(help="Dollars per million tokens.", metavar="NUMBER")]


def agreement_command(
    judge_url: JudgeUrl,
    judge_model: JudgeModel,
    judge_samples: JudgeSamples = 3,
    judge_temperature: JudgeTemperature = 0.7,
    judge_key: JudgeKey = "OPENAI_API_KEY",
    judge_cache: JudgeCache = None,
    input_price: Price = 0.0,
    output_price: Price = 0.0,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Graded pairs of your own, as lines of JSON.",
            metavar="FILE",
            show_default="the shipped 40",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write it as JSON too.", metavar="FILE"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Check a judge against replies whose grades are given, and say whether it can be relied on.

    Equal grades, ranks, and the order of replies to one instruction, for content, style and the
    single score; then where it differs most. A weak judge is said to be one.
    """
    with one_line_errors(debug):
        from llama_omni.backends.chat_options import ChatOptions
        from llama_omni.evaluate.agreement import check_agreement, read_pairs
        from llama_omni.evaluate.judge import Judge, JudgeOptions

        chosen = None if pairs is None else read_pairs(pairs)
        chat = ChatOptions(
            base_url=judge_url,
            model=judge_model,
            temperature=judge_temperature,
            api_key_env=judge_key,
            cache=judge_cache,
            input_price=input_price,
            output_price=output_price,
        )
        with Judge(JudgeOptions(chat=chat, samples=judge_samples)) as judge:
            report = check_agreement(judge, chosen)
            typer.echo("\n".join(agreement_lines(report)))
            note(f"judge {judge_model}: {judge.usage}")
        if output is not None:
            _write(output, judge_model, report)


def agreement_lines(report: "AgreementReport") -> list[str]:
    """Return what is printed of a check."""
    names = ("exact", "within_one", "kappa", "spearman", "kendall", "order", "bias", "spread")
    lines = ["aspect   count  " + "  ".join(f"{name:>10}" for name in names)]
    for one in report.aspects:
        cells = [getattr(one, name) for name in names]
        texts = [f"{'-' if cell is None else format(cell, '.3f'):>10}" for cell in cells]
        lines.append(f"{one.aspect:<8} {one.count:>5}  " + "  ".join(texts))
    lines.append(f"answers without a grade: {report.unjudged:.1%}")
    if worst := report.worst():
        lines.append("worst disagreements:")
    for pair, aspect, grade in worst:
        ours = getattr(pair, aspect)
        lines.append(f"  {pair.id} {aspect}: judge {grade:.2f}, given {ours}: {pair.reply:.60}")
    if report.weak:
        lines.append(f"WEAK JUDGE: {'; '.join(report.weak)}")
    else:
        lines.append("the judge agrees with the given grades well enough to be relied on")
    return [" ".join(line.splitlines()) for line in lines]


def _write(file: Path, model: str, report: "AgreementReport") -> None:
    values = {
        "judge": model,
        "aspects": [asdict(one) for one in report.aspects],
        "unjudged": report.unjudged,
        "weak": report.weak,
        "grades": {name: found.to_json() for name, found in report.grades.items()},
    }
    try:
        file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{file} must be a file that can be written: {error}") from error
