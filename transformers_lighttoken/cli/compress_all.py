"""`lighttoken compress-all`."""

import csv
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..checkpoint.compress_all import Job, JobResult, compress_all
from ..config import LightTokenConfig
from ..distributed import Processes, launched_accelerator
from .checkpoints import Device, Metric, Solver, TiePolicy, Tiers
from .common import DebugOption, JsonOption, going_on_later, is_main_process, show, show_json, working

_COLUMNS = ("source", "output", "ratio", "revision", "subfolder")


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("compress-all")(compress_all_command)


def compress_all_command(
    jobs_list: Annotated[
        Path,
        typer.Argument(
            metavar="LIST",
            exists=True,
            dir_okay=False,
            help="Lines `SOURCE OUTPUT [RATIO]`, or a table (.csv, .tsv, .json) with columns source, output and, where "
            "wanted, ratio, revision and subfolder.",
        ),
    ],
    ratio: Annotated[float, typer.Option(help="Compression ratio of those that name none.")] = 25.0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    solver: Annotated[Solver, typer.Option(help="How to fit the codes.")] = Solver.refined,
    tiers: Annotated[Tiers, typer.Option(help="More bits for frequent tokens, or equal ones.")] = Tiers.auto,
    metric: Annotated[Metric, typer.Option(help="Measure each model, or weigh all errors the same.")] = Metric.auto,
    tie_policy: Annotated[TiePolicy, typer.Option(help="Tied output heads.")] = TiePolicy.share,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what stopped runs have finished.")] = False,
    log: Annotated[
        Path | None, typer.Option(help="Folder for a log of each checkpoint, a line a step, that can be followed.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compresses many models, spread over the processes that `accelerate launch` starts; goes on past failures."""
    options = {
        "seed": seed,
        "solver": solver.value,
        "tiers": tiers.value,
        "metric": metric.value,
        "tie_policy": tie_policy.value,
    }
    jobs = [_job(entry, ratio, options) for entry in read_jobs(jobs_list)]
    finished: list[JobResult] = []

    def tell(result: JobResult) -> None:
        finished.append(result)
        _tell(result)

    try:
        with working(), going_on_later(), launched_accelerator(device.value) as accelerator:
            processes = Processes(accelerator)
            results = compress_all(jobs, processes, device=device.value, restart=restart, told=tell, log=log)
    except typer.Exit:  # stopped by Ctrl-C
        if is_main_process():
            _summarize(finished, as_json)
        raise
    failed = sum(result.status == "failed" for result in results)
    if processes.is_main:
        _summarize(results, as_json)
    if failed:
        raise typer.Exit(1)


def read_jobs(path: Path) -> list[dict[str, Any]]:
    """The checkpoints that a list names.

    Args:
        path: lines `SOURCE OUTPUT [RATIO]`, quoted as in a shell, `#` starting a comment; or a table with a header
            (.csv, .tsv), or a JSON list of objects (.json).

    Returns:
        One mapping each, with the columns that are not empty.

    Raises:
        ValueError: naming the line that cannot be understood.
    """
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        entries = json.loads(text)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{path} holds no JSON list of objects with the keys source and output.")
    elif path.suffix in (".csv", ".tsv"):
        entries = list(csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ","))
    else:
        entries = [dict(zip(_COLUMNS, fields, strict=False)) for fields in _lines(path, text)]
    jobs = [{str(key): value for key, value in entry.items() if value not in (None, "")} for entry in entries]
    for number, job in enumerate(jobs, start=1):
        unknown = sorted(job.keys() - set(_COLUMNS))
        missing = [name for name in ("source", "output") if name not in job]
        if unknown or missing:
            raise ValueError(
                f"entry {number} of {path} "
                + (f"has no {' and no '.join(missing)}" if missing else f"has unknown columns {unknown}")
                + f": known are {', '.join(_COLUMNS)}."
            )
    if not jobs:
        raise ValueError(f"{path} names no checkpoint.")
    return jobs


def _lines(path: Path, text: str) -> list[list[str]]:
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            fields = shlex.split(line, comments=True)
        except ValueError as error:
            raise ValueError(f"line {number} of {path} cannot be read: {error}.") from error
        if len(fields) not in (0, 2, 3):
            raise ValueError(f"line {number} of {path} has {len(fields)} fields: give SOURCE OUTPUT [RATIO].")
        lines += [fields] if fields else []
    return lines


def _job(entry: dict[str, Any], ratio: float, options: dict[str, Any]) -> Job:
    try:
        config = LightTokenConfig(compression_ratio=float(entry.get("ratio", ratio)), **options)
    except ValueError as error:
        raise ValueError(f"{entry['source']}: {error}") from error
    revision, subfolder = entry.get("revision"), entry.get("subfolder", "")
    return Job(str(entry["source"]), str(entry["output"]), config, revision, subfolder)


def _tell(result: JobResult) -> None:
    facts = result.error if result.status == "failed" else f"{result.ratio_float32:.2f} times smaller"
    facts = "there already" if result.status == "skipped" else facts
    sys.stderr.write(f"{result.status}: {result.source} -> {result.output} ({facts}, {result.seconds:.0f} s)\n")
    sys.stderr.flush()


def _summarize(results: list[JobResult], as_json: bool) -> None:
    counts = {status: sum(result.status == status for result in results) for status in ("done", "skipped", "failed")}
    if as_json:
        show_json({**counts, "jobs": [asdict(result) for result in results]})
        return
    table = Table("source", "output", "status", "ratio", "seconds", "error")
    for result in results:
        ratio = f"{result.ratio_float32:.2f}" if result.ratio_float32 else ""
        table.add_row(result.source, result.output, result.status, ratio, f"{result.seconds:.1f}", result.error)
    show(table, ", ".join(f"{count} {status}" for status, count in counts.items()))
