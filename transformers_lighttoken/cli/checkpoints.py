"""`lighttoken compress`, `inspect`, `decompress`."""

import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checkpoint.compress import compress_checkpoint
from ..checkpoint.decompress import decompress_checkpoint
from ..config import LightTokenConfig
from ..distributed import Processes, launched_accelerator
from ..report import compression_report
from .common import DebugOption, JsonOption, going_on_later, show, show_json, working
from .inputs import read_frequencies, read_texts


class Solver(StrEnum):
    """Choices of --solver."""

    refined = "refined"
    paper = "paper"


class TiePolicy(StrEnum):
    """Choices of --tie-policy."""

    share = "share"
    dense = "dense"
    error = "error"


class Tiers(StrEnum):
    """Choices of --tiers."""

    auto = "auto"
    equal = "equal"


class Metric(StrEnum):
    """Choices of --metric."""

    auto = "auto"
    plain = "plain"


class Device(StrEnum):
    """Choices of --device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, or a repository on the Hub.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a compressed checkpoint.")]
OutputArgument = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make.")]
FrequenciesOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, metavar="FILE", help="Counts of the tokens in order of ids: .json, .npy, text."
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Text on which to measure the model."),
]
DeviceOption = Annotated[Device, typer.Option(help="auto: a GPU if there is one.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(compress)
    app.command()(inspect)
    app.command()(decompress)


def compress(
    source: SourceArgument,
    output: OutputArgument,
    ratio: Annotated[float, typer.Option(help="How many times smaller than float32 the table is to be.")] = 25.0,
    rank: Annotated[int | None, typer.Option(show_default="none", help="Rank of the low-rank part.")] = None,
    code_bits: Annotated[int | None, typer.Option(help="Bits a token, instead of a ratio.")] = None,
    num_stages: Annotated[
        int | None,
        typer.Option(show_default="each doubling the code; paper: of about 64 bits", help="Stages of the code."),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Weight of the angle in the autoencoder's loss.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    solver: Annotated[Solver, typer.Option(help="paper: the autoencoder alone.")] = Solver.refined,
    tiers: Annotated[Tiers, typer.Option(help="equal: the same bits for every token.")] = Tiers.auto,
    metric: Annotated[
        Metric, typer.Option(help="plain: all errors weigh the same; auto: measured on the model.")
    ] = Metric.auto,
    frequencies: FrequenciesOption = None,
    calibration: CalibrationOption = None,
    device: DeviceOption = Device.auto,
    tie_policy: Annotated[
        TiePolicy, typer.Option(help="Tied output head: share the codes, stay dense, or refuse.")
    ] = TiePolicy.share,
    modules_to_not_convert: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Embedding module to leave dense; repeatable.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    subfolder: Annotated[str, typer.Option(help="Of the source, where the model lies.")] = "",
    restart: Annotated[bool, typer.Option("--restart", help="Forget what a stopped run has finished.")] = False,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add a line to this file at each step: it can be followed.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compresses the token-embedding tables of a model; everything else is copied as it is."""
    config = _config(
        compression_ratio=ratio,
        rank=rank,
        code_bits=code_bits,
        num_stages=num_stages,
        alpha=alpha,
        seed=seed,
        solver=solver.value,
        tiers=tiers.value,
        metric=metric.value,
        tie_policy=tie_policy.value,
        modules_to_not_convert=modules_to_not_convert or None,
    )
    start = time.perf_counter()
    with working(), going_on_later(), launched_accelerator(device.value) as accelerator:
        report = compress_checkpoint(
            source,
            output,
            config,
            revision=revision,
            subfolder=subfolder,
            frequencies=read_frequencies(frequencies) if frequencies else None,
            calibration=read_texts(calibration) if calibration else None,
            device=device.value,
            accelerator=accelerator,
            restart=restart,
            log=log,
        )
    if not Processes(accelerator).is_main:
        return
    if as_json:
        show_json({**report.to_dict(), "output": str(output), "seconds": round(time.perf_counter() - start, 3)})
    else:
        show(str(report), f"saved to {output}; `import transformers_lighttoken` before from_pretrained loads it")


def inspect(
    folder: FolderArgument,
    original: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="The dense model, to measure errors against.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Shows what a compressed checkpoint stores, to the byte."""
    with working():
        report = compression_report(folder, original)
    if as_json:
        show_json(report.to_dict())
    else:
        show(str(report))


def decompress(
    folder: FolderArgument, output: OutputArgument, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Writes an ordinary dense checkpoint, which loads without this package."""
    with working():
        tables = decompress_checkpoint(folder, output)
    if as_json:
        show_json({"output": str(output), "tables": {name: asdict(table) for name, table in tables.items()}})
        return
    for name, table in tables.items():
        show(f"{name}: {table.shape[0]} x {table.shape[1]} {table.dtype}, stored as {', '.join(table.keys)}")
    show(f"saved to {output}")


def _config(**fields: Any) -> LightTokenConfig:
    try:
        return LightTokenConfig(**fields)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
