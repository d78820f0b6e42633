"""An output folder that appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

_CONTENT = "content"
_STATE = "state"
_LOCK = "lock"


class OutputError(OSError):
    """The output folder cannot be written; the message names the remedy."""


@contextmanager
def new_folder(output: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a folder to write into, which takes its place when the block ends without an error.

    It lies beside the output, as `.<name>.partial`, so that putting it in place is one renaming. A killed run leaves
    that folder behind; the next run into the same output clears it, all but the state files from which it may go on
    (see `state`). A run that is stopped, or that fails for a reason outside its input, leaves the state files too.

    Args:
        output: the folder to be; must not exist, or be empty.

    Yields:
        The folder to write into.

    Raises:
        OutputError: if the output is there already, or another run is writing it.
    """
    target = Path(output).expanduser().resolve()
    _check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    working = _working_folder(target)
    working.mkdir(exist_ok=True)
    lock = FileLock(working / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(f"another run is writing {target}: wait for it, or choose another output folder.") from None
    finished_stages = False
    try:
        content = working / _CONTENT
        _clear(working)
        content.mkdir()
        yield content
        _flush(content)
        _check_free(target)
        if target.exists():
            target.rmdir()  # empty; not every system renames over it
        content.rename(target)
        _flush_entry(target.parent)
    except BaseException as error:
        finished_stages = not isinstance(error, (ValueError, TypeError)) and has_state(state_folder(content))
        raise
    finally:
        _clear(working)
        _let_go(lock, None if finished_stages else working)


def left_by_killed_run(output: str | os.PathLike[str]) -> Path | None:
    """The state folder that a killed run has left beside an output which is there already, or None."""
    target = Path(output).expanduser().resolve()
    state = _working_folder(target) / _STATE
    return state if state.is_dir() and target.is_dir() and any(target.iterdir()) else None


def clear_left_over(output: str | os.PathLike[str]) -> None:
    """Removes what a killed run has left beside an output, unless another run is using it."""
    working = _working_folder(Path(output).expanduser().resolve())
    lock = FileLock(working / _LOCK, timeout=0)
    with suppress(Timeout):
        lock.acquire()
        _let_go(lock, working)


def _working_folder(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _let_go(lock: BaseFileLock, working: Path | None) -> None:
    """Removes the working folder, where one is given, before another run can take its lock; then frees the lock."""
    if working is not None:
        shutil.rmtree(working, ignore_errors=True)
    lock.release()
    if working is not None and os.name == "nt":  # a locked file cannot be removed there
        shutil.rmtree(working, ignore_errors=True)


def state_folder(folder: Path) -> Path:
    """Where the state files of the run that writes into `folder` belong."""
    return folder.with_name(_STATE)


def has_state(folder: Path) -> bool:
    """Whether a run has left anything to go on from."""
    return folder.is_dir() and any(path.suffix == ".safetensors" for path in folder.iterdir())


def _clear(working: Path) -> None:
    """Removes all but the lock and the state files."""
    for path in working.iterdir():
        if path.is_dir() and path.name != _STATE:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def replaced_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a folder to write into, which takes the place of a present one when the block ends without an error.

    The present folder stays until the new one is on disk. A run killed between the two renamings leaves the old one
    under `.<name>.old`, where `recover_folder` finds it.

    Args:
        folder: to be replaced.

    Yields:
        The folder to write into.

    Raises:
        OutputError: if another run is replacing it.
    """
    target = Path(folder).expanduser().resolve()
    old = target.with_name(f".{target.name}.old")
    with new_folder(target.with_name(f".{target.name}.new")) as new:
        yield new
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    target.with_name(f".{target.name}.new").rename(target)
    _flush_entry(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: str | os.PathLike[str]) -> None:
    """Puts a folder back that a killed run has moved away, and clears what else it has left."""
    target = Path(folder).expanduser().resolve()
    old, new = (target.with_name(f".{target.name}.{ending}") for ending in ("old", "new"))
    if old.is_dir() and not target.exists():
        old.rename(target)
    for left in (old, new):
        shutil.rmtree(left, ignore_errors=True)


def refuse_inside(output: str | os.PathLike[str], source: Path) -> None:
    """Refuses an output inside the folder that is read.

    Raises:
        OutputError: if it is.
    """
    if Path(output).expanduser().resolve().is_relative_to(source.resolve()):
        raise OutputError(f"the output {output} lies inside the source {source}: choose a folder outside it.")


def _check_free(target: Path) -> None:
    if target.is_dir():
        if any(target.iterdir()):
            raise OutputError(f"{target} exists and is not empty: remove it, or choose another output folder.")
    elif target.exists():
        raise OutputError(f"{target} is a file: choose another output folder.")


def _flush(folder: Path) -> None:
    """Brings everything in a folder to disk."""
    for path in sorted(folder.rglob("*")):
        _flush_entry(path)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
