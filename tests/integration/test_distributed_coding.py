"""Tables coded by real processes over gloo: the same bytes for 1, 2 and 3 of them."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.multiprocess


@cache
def facts_of(count: int) -> list[dict[str, Any]]:
    """What each of some processes found; a lone one computes on two threads, and mixed precision changes nothing."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"] if count > 1 else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "THREADS": "2" if count == 1 else ""}
    environment["ACCELERATE_MIXED_PRECISION"] = "bf16"
    with TemporaryDirectory() as folder:
        command = [sys.executable, *launcher, "-m", "tests.integration.distributed_coding", folder]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-4000:]
        return [json.loads(Path(folder, f"process{index}.json").read_text()) for index in range(count)]


@pytest.mark.parametrize("count", [2, 3])
def test_the_stored_bytes_do_not_depend_on_the_number_of_processes(count: int) -> None:
    alone, together = facts_of(1)[0], facts_of(count)
    assert len(set(alone["digests"].values())) == 9
    for facts in together:
        assert facts["processes"] == count
        assert facts["digests"] == alone["digests"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_process_names_the_same_bad_row(count: int) -> None:
    refusals = {facts["refused"] for facts in facts_of(count)}
    assert refusals == {"weight holds NaN or infinite values, the first in row 8999 (as float32)."}


@pytest.mark.parametrize("count", [2, 3])
def test_a_failure_of_one_process_is_told_to_all(count: int) -> None:
    last = count - 1
    own, main = f"OSError: disk of process {last}", "OSError: disk of process 0"
    for index, facts in enumerate(facts_of(count)):
        told = own if index == last else f"ProcessError: process {last} failed with {own}"
        told_of_main = main if index == 0 else f"ProcessError: the main process failed with {main}"
        assert facts["failures"] == [told, told_of_main]


@pytest.mark.parametrize("count", [2, 3])
def test_a_state_file_that_one_process_cannot_write_stops_all(count: int) -> None:
    for index, facts in enumerate(facts_of(count)):
        own = (
            "FileExistsError"
            if index == count - 1
            else f"ProcessError: process {count - 1} failed with FileExistsError"
        )
        assert facts["unwritable"].startswith(own)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_of_different_lengths_are_gathered(count: int) -> None:
    for facts in facts_of(count):
        assert facts["gathered"] == [list(range(index)) for index in range(count)]


@pytest.mark.parametrize("count", [2, 3])
def test_data_parallel_training_gives_the_result_of_one_process(count: int) -> None:
    digest, error = facts_of(1)[0]["trained"]
    assert 0.01 < error < 0.5
    for facts in facts_of(count):
        assert facts["trained"][1] == pytest.approx(error, rel=1e-3)  # whatever the platform's products
        assert facts["trained"][0] == digest
