"""Many independent checkpoints, spread over processes: each is compressed by one of them."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..coding.encode import Progress
from ..config import LightTokenConfig
from ..distributed import Processes
from ..progress import progress_bars
from .compress import compress_checkpoint
from .files import list_files
from .origin import present_facts, recorded_origin, same_source
from .output import OutputError


@dataclass(frozen=True)
class Job:
    """A checkpoint to compress.

    Attributes:
        source: a folder, or a repository on the Hub.
        output: the folder to make.
        config: how to compress.
        revision: of the repository.
        subfolder: of the source, where the model lies.
    """

    source: str
    output: str
    config: LightTokenConfig
    revision: str | None = None
    subfolder: str = ""


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        source: a folder, or a repository on the Hub.
        output: the folder that was to be made.
        status: "done", "skipped" (the output was there already, made from the same source with the same
            settings), or "failed".
        error: why it failed, in one line; empty otherwise.
        stored_bytes: of the compressed tables; 0 if it failed.
        ratio_float32: how many times smaller the tables are; 0 if it failed.
        seconds: wall time.
    """

    source: str
    output: str
    status: str
    error: str = ""
    stored_bytes: int = 0
    ratio_float32: float = 0.0
    seconds: float = 0.0


def compress_all(
    jobs: Sequence[Job],
    processes: Processes | None = None,
    *,
    device: str = "auto",
    restart: bool = False,
    told: Callable[[JobResult], None] | None = None,
    log: str | os.PathLike[str] | None = None,
) -> list[JobResult]:
    """Compresses checkpoints one after the other in each process; goes on past those that fail.

    Args:
        jobs: the checkpoints, with different outputs.
        processes: that share the jobs; each makes this call. None for a single one.
        device: "auto", "cpu" or "cuda".
        restart: forget what stopped runs have finished.
        told: of each result, in the process that did the job.
        log: a folder to write a log of each checkpoint into, named after its output (see `compress_checkpoint`).

    Returns:
        The results in order of the jobs, on every process.

    Raises:
        ValueError: if two jobs have the same output, or a log is wanted and their outputs have the same name.
        OSError: if the folder for the logs cannot be made.
    """
    processes = processes or Processes()
    logs = _logs(jobs, None if log is None else Path(log).expanduser())
    sizes = processes.on_main(lambda: [_size(job) for job in jobs])
    results = []
    for number in _assigned(sizes, processes.count)[processes.index]:
        with progress_bars(shown=processes.is_main) as progress:
            result = _do(jobs[number], device, restart, progress, logs[number])
        results.append((number, result))
        if told is not None:
            told(result)
    gathered = processes.gather_objects(results)
    return [result for _, result in sorted(gathered, key=lambda numbered: numbered[0])]


def _do(job: Job, device: str, restart: bool, progress: Progress, log: Path | None) -> JobResult:
    start = time.perf_counter()
    try:
        if _is_done(job):
            return JobResult(job.source, job.output, "skipped")
        report = compress_checkpoint(
            job.source,
            job.output,
            job.config,
            revision=job.revision,
            subfolder=job.subfolder,
            device=device,
            progress=progress,
            restart=restart,
            log=log,
        )
    except Exception as error:  # noqa: BLE001 - told in the summary; the other checkpoints go on
        message = " ".join(str(error).split()) or type(error).__name__
        return JobResult(job.source, job.output, "failed", message, seconds=time.perf_counter() - start)
    facts = report.to_dict()
    seconds = time.perf_counter() - start
    return JobResult(job.source, job.output, "done", "", report.stored_bytes, facts["ratio_float32"], seconds)


def _is_done(job: Job) -> bool:
    """Whether an earlier run has made the output from the same source with the same settings.

    Raises:
        OutputError: if it has made it with the same settings from another source, or another state of it.
    """
    origin = recorded_origin(job.output, job.config)
    if origin is None:
        return False
    if not same_source(origin, present_facts(job.source, job.revision, job.subfolder)):
        raise OutputError(
            f"{job.output} was made with the same settings, but from another source or from {job.source} before it "
            "changed: remove it, or choose another output folder."
        )
    return True


def _size(job: Job) -> int:
    """Bytes of the source, 0 if it is not on this machine; one that cannot be read fails when its turn comes."""
    try:
        folder = Path(job.source).expanduser()
        return sum((folder / name).stat().st_size for name in list_files(folder)) if folder.is_dir() else 0
    except (OSError, RuntimeError, ValueError):  # no permission, a name too long or with a null byte, an unknown home
        return 0


def _assigned(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Numbers of the jobs of each process: the largest first, each to the process that has least to do."""
    jobs: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        least = loads.index(min(loads))
        jobs[least].append(number)
        loads[least] += max(sizes[number], 1)
    return jobs


def _logs(jobs: Sequence[Job], folder: Path | None) -> list[Path | None]:
    """The log of each job, in a folder that is made; refuses jobs that would write to the same place."""
    _refuse_same([job.output for job in jobs], [_absolute(job.output) for job in jobs], "output")
    if folder is None:
        return [None] * len(jobs)
    logs = [folder / f"{_absolute(job.output).name}.log" for job in jobs]
    _refuse_same([job.output for job in jobs], logs, "log")
    folder.mkdir(parents=True, exist_ok=True)
    return list(logs)


def _refuse_same(outputs: Sequence[str], places: Sequence[Path], what: str) -> None:
    seen: set[Path] = set()
    for output, place in zip(outputs, places, strict=True):
        if place in seen:
            raise ValueError(f"two checkpoints have the same {what} {output!r}: give each a folder of its own.")
        seen.add(place)


def _absolute(output: str) -> Path:
    """The folder that an output means; as it is written where that cannot be found out, which fails in its turn."""
    try:
        return Path(output).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):
        return Path(output)
