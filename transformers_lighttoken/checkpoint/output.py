"""An output folder that appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

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
    target, working = _places(output)
    if is_left_behind(output) and not has_state(working / _STATE):
        clear_up(output)
    _check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = _locked(working, target)
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
        if finished_stages:
            _clear(working)
            lock.release()
        else:
            _remove(working, lock)


def is_left_behind(output: str | os.PathLike[str]) -> bool:
    """Whether a run may have been killed after it put the output in place, and before it had cleared up."""
    target, working = _places(output)
    return working.is_dir() and target.is_dir() and any(target.iterdir())


def clear_up(output: str | os.PathLike[str]) -> None:
    """Removes what a killed run has left beside an output.

    Raises:
        OutputError: if the run is still at work.
    """
    target, working = _places(output)
    _remove(working, _locked(working, target))


def _places(output: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The output folder, and the one beside it in which a run works."""
    target = Path(output).expanduser().resolve()
    return target, target.with_name(f".{target.name}.partial")


def _locked(working: Path, target: Path) -> FileLock:
    """Takes the lock of a working folder, which is made if need be."""
    working.mkdir(exist_ok=True)
    lock = FileLock(working / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(f"another run is writing {target}: wait for it, or choose another output folder.") from None
    return lock


def _remove(working: Path, lock: FileLock) -> None:
    """Removes a working folder; the lock is held until nothing but its own file is left."""
    for path in working.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # some systems keep open files
        (working / _LOCK).unlink()
    lock.release()
    with suppress(OSError):  # another run may have begun in it
        working.rmdir()


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


def refuse_taken(output: str | os.PathLike[str]) -> None:
    """Refuses an output that is there already.

    Raises:
        OutputError: if it is.
    """
    _check_free(_places(output)[0])


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
