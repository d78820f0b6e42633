"""`lighttoken heal`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..checkpoint.heal import heal_checkpoint
from ..modeling.heal import HealingOptions
from ..report import compression_report
from .checkpoints import Device, DeviceOption, FolderArgument
from .common import DebugOption, JsonOption, show, show_json, working
from .inputs import read_texts

_DEFAULT = HealingOptions()


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(heal)


def heal(
    folder: FolderArgument,
    text: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Generic text, passages a line.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Of the optimizer.")] = _DEFAULT.steps,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="The dense model; the one that the checkpoint names when left out."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows of text in a step.")] = _DEFAULT.batch_size,
    window: Annotated[int, typer.Option(min=1, help="Tokens in a window.")] = _DEFAULT.window,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = _DEFAULT.learning_rate,
    seed: Annotated[int, typer.Option(help="Of the order of the text.")] = 0,
    device: DeviceOption = Device.auto,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Recovers what compression has cost: distils the dense model into the tables, on generic text without labels."""
    try:
        options = HealingOptions(steps, batch_size, window, learning_rate, seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    start = time.perf_counter()
    with working():
        texts = read_texts(text)
        result = heal_checkpoint(folder, texts, baseline=baseline, options=options, device=device.value)
        report = compression_report(folder)
    if as_json:
        seconds = round(time.perf_counter() - start, 3)
        show_json({**report.to_dict(), "healed": asdict(result), "output": str(folder), "seconds": seconds})
        return
    change = f"divergence from the dense model {result.divergence_before:.4g} -> {result.divergence_after:.4g}"
    show(str(report), f"healed in {result.steps} steps: {change}", f"saved to {folder}")
