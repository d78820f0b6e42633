"""`lighttoken evaluate`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..evaluation.fine_tuning.settings import FineTuningSettings
from ..evaluation.names import ALL_TASKS, DEFAULT_OUTPUT, check_tasks
from .common import DebugOption, JsonOption, show, show_json, working


class TableTraining(StrEnum):
    """Choices of --table."""

    trained = "trained"
    frozen = "frozen"


class Precision(StrEnum):
    """Choices of --precision."""

    fp32 = "fp32"
    bf16 = "bf16"


class EvaluationDevice(StrEnum):
    """Choices of --device."""

    auto = "auto"
    cpu = "cpu"


CUSTOMARY = "customary for the task"


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(evaluate)


def evaluate(
    source: Annotated[
        str,
        typer.Argument(metavar="DIR", help="A dense or compressed checkpoint: a folder, or a repository on the Hub."),
    ],
    task: Annotated[
        list[str], typer.Option(metavar="TASK", help=f"Repeatable: {', '.join(ALL_TASKS)}.", show_default=False)
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            metavar="PATH",
            show_default="from the Hub",
            help="Folder with TASK/SPLIT.parquet and wikitext2/validation.txt; for perplexities also a text file.",
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="The dense model, measured in the same way.")
    ] = None,
    seeds: Annotated[
        list[int], typer.Option("--seed", metavar="SEED", help="One run of fine-tuning each; repeatable.")
    ] = [0],  # noqa: B006 - typer reads it
    epochs: Annotated[
        float | None, typer.Option(show_default=CUSTOMARY, help="0: measure the model with its head as it is.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", show_default=CUSTOMARY, help="Highest one.")] = None,
    batch_size: Annotated[int | None, typer.Option(show_default=CUSTOMARY, help="Rows a step.")] = None,
    max_length: Annotated[int | None, typer.Option(show_default=CUSTOMARY, help="Tokens of a row or window.")] = None,
    stride: Annotated[
        int | None, typer.Option(show_default="128", help="Tokens that neighbouring windows of SQuAD share.")
    ] = None,
    train_rows: Annotated[int | None, typer.Option(show_default="all", help="So many training rows at most.")] = None,
    table: Annotated[
        TableTraining, typer.Option(help="frozen: nothing of the token-embedding table trains.")
    ] = TableTraining.trained,
    precision: Annotated[Precision, typer.Option(help="bf16: autocast; weights stay float32.")] = Precision.fp32,
    device: Annotated[EvaluationDevice, typer.Option(help="auto: a GPU if there is one.")] = EvaluationDevice.auto,
    max_tokens: Annotated[
        int | None, typer.Option(show_default="all", help="For perplexities: tokens of the text to read.")
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where runs are stored, and found again after an interruption.")
    ] = Path(DEFAULT_OUTPUT),
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Fine-tunes on GLUE and SQuAD and measures, or measures the model as it is."""
    try:
        check_tasks(task)
        settings = FineTuningSettings(
            epochs, learning_rate, batch_size, max_length, stride, train_rows,
            table.value, precision.value, device.value,
        )  # fmt: skip
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    from ..evaluation.evaluate import evaluate_checkpoint  # Trainer takes seconds to import

    with working():
        result = evaluate_checkpoint(
            source,
            task,
            data=data,
            baseline=baseline,
            seeds=list(dict.fromkeys(seeds)),
            settings=settings,
            output=output,
            revision=revision,
            max_tokens=max_tokens,
            told=lambda text: typer.echo(text, err=True),
        )
    if as_json:
        show_json(result)
    else:
        show(_table(result["results"]))


def _table(results: list[dict[str, Any]]) -> Table:
    compared = any("dense" in entry for entry in results)
    table = Table("task", "metric", "value", "runs", *(["dense", "share"] if compared else []))
    for entry in results:
        error = f" ± {entry['standard_error']:.4f}" if "standard_error" in entry else ""
        cells = [f"{entry['task']}, {entry['setting']}", entry["metric"], f"{entry['value']:.4f}{error}"]
        cells.append(str(entry.get("runs", 1)))
        if compared:
            share = f"{100 * entry['share']:.1f} %" if "share" in entry else ""
            cells += [f"{entry['dense']:.4f}", share + (", a tie" if entry.get("tie") else "")]
        table.add_row(*cells)
    return table
