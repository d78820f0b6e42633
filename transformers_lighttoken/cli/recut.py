"""`lighttoken recut`."""

import time
from typing import Annotated

import typer

from ..checkpoint.recut import recut_checkpoint
from .checkpoints import CalibrationOption, Device, DeviceOption, FolderArgument, FrequenciesOption, OutputArgument
from .common import DebugOption, JsonOption, show, show_json, working
from .inputs import read_frequencies, read_texts


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(recut)


def recut(
    folder: FolderArgument,
    output: OutputArgument,
    ratio: Annotated[float, typer.Option(min=1.0, help="How many times smaller than float32 the table is to be.")],
    frequencies: FrequenciesOption = None,
    calibration: CalibrationOption = None,
    device: DeviceOption = Device.auto,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Makes a smaller checkpoint from a compressed one, without the original."""
    start = time.perf_counter()
    with working():
        report = recut_checkpoint(
            folder,
            output,
            ratio,
            frequencies=read_frequencies(frequencies) if frequencies else None,
            calibration=read_texts(calibration) if calibration else None,
            device=device.value,
        )
    if as_json:
        show_json({**report.to_dict(), "output": str(output), "seconds": round(time.perf_counter() - start, 3)})
    else:
        show(str(report), f"saved to {output}; `lighttoken inspect {output} --original SOURCE` measures its errors")
