"""An output folder appears whole or not at all."""

import fcntl
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from transformers_lighttoken.checkpoint.output import (
    OutputError,
    is_left_behind,
    new_folder,
    refuse_inside,
    state_folder,
)

CODE = """
    import os, signal, sys, time
    from pathlib import Path
    from transformers_lighttoken.checkpoint import output
    from transformers_lighttoken.checkpoint.output import new_folder
    def die(folder):
        if folder == Path(sys.argv[1]).parent:
            os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "die in place":
        output._flush_entry = die  # called for the parent once the output is renamed
    with new_folder(sys.argv[1]) as folder:
        (folder / "half.txt").write_text("half")
        if sys.argv[2] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        print("inside", flush=True)
        sys.stdin.readline()
"""


def start(output: Path, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(CODE), str(output), what]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def write(output: Path) -> None:
    with new_folder(output) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file.txt").write_text("content")
        assert not output.exists() or not any(output.iterdir())


def test_appears_whole_at_the_end(tmp_path: Path) -> None:
    write(tmp_path / "new" / "output")
    assert (tmp_path / "new" / "output" / "sub" / "file.txt").read_text() == "content"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["output"]


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    write(tmp_path / "output")
    assert (tmp_path / "output" / "sub" / "file.txt").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "output") as folder:
            (folder / "half.txt").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_content_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty: remove it, or choose another"):
        write(tmp_path / "output")
    assert (tmp_path / "output" / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        write(tmp_path / "output")


def test_an_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def race() -> None:
        with new_folder(tmp_path / "output") as folder:
            (folder / "ours.txt").write_text("ours")
            (tmp_path / "output").mkdir()
            (tmp_path / "output" / "theirs.txt").write_text("theirs")

    with pytest.raises(OutputError, match="is not empty"):
        race()
    assert [path.name for path in tmp_path.rglob("*")] == ["output", "theirs.txt"]


def test_a_killed_run_leaves_no_output_and_no_lock(tmp_path: Path) -> None:
    assert start(tmp_path / "output", "die").wait(120) == -9
    assert not (tmp_path / "output").exists()
    write(tmp_path / "output")
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    assert [path.name for path in (tmp_path / "output").rglob("*")] == ["sub", "file.txt"]


def test_what_a_run_killed_at_its_very_end_has_left_is_cleared(tmp_path: Path) -> None:
    run = start(tmp_path / "output", "die in place")
    run.communicate("go on\n", timeout=120)
    assert run.returncode == -9
    assert (tmp_path / "output" / "half.txt").read_text() == "half"
    assert (tmp_path / ".output.partial").is_dir()
    assert is_left_behind(tmp_path / "output")
    with pytest.raises(OutputError, match="is not empty"):
        write(tmp_path / "output")
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_the_lock_is_held_until_all_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove, refused = shutil.rmtree, []

    def watched(path: Path, ignore_errors: bool = False) -> None:
        with (tmp_path / ".output.partial" / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(path.name)
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", watched)
    with new_folder(tmp_path / "output") as folder:
        state_folder(folder).mkdir()
        (state_folder(folder) / "step.safetensors").write_text("finished")
        (folder / "file.txt").write_text("content")
    assert refused == ["state"]
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_two_runs_into_one_folder_are_refused(tmp_path: Path) -> None:
    other = start(tmp_path / "output", "wait")
    assert other.stdout is not None
    assert other.stdout.readline() == "inside\n"
    with pytest.raises(OutputError, match="another run is writing .*output"):
        write(tmp_path / "output")
    other.communicate("go on\n", timeout=120)
    assert other.returncode == 0
    assert (tmp_path / "output" / "half.txt").read_text() == "half"


def test_an_output_inside_the_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for output in (tmp_path / "source" / "output", tmp_path / "source", tmp_path / "source" / ".." / "source" / "x"):
        with pytest.raises(OutputError, match="inside the source"):
            refuse_inside(output, tmp_path / "source")
    refuse_inside(tmp_path / "source_2", tmp_path / "source")
