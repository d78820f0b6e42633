"""Several processes on one table: speed-up, bytes exchanged, peak memory, killed runs, and a cost model.

`python -m tests.benchmarks.distributed [speed exchange kill model]`; without names, all of them. Each process computes
on one thread. Run it on a machine that does nothing else: it measures wall time.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from tests.benchmarks.common import print_table
from tests.checkpoints import file_contents

ROOT = Path(__file__).parents[2]
WORKER = "tests.benchmarks.distributed_worker"
TARGETS = {"speed-up": 1.7, "memory": 0.65}
GIB = 2**30


def run(source: Path, output: Path, processes: int, ratio: float) -> list[dict[str, Any]]:
    """Compresses a checkpoint; what each process measured."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] * (processes > 1)
    command = [sys.executable, *launcher, "-m", WORKER, str(source), str(output), str(ratio)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return [json.loads(Path(f"{output}-{index}.json").read_text()) for index in range(processes)]


def checkpoint(folder: Path, rows: int, dim: int) -> Path:
    """A tiny BERT with a table whose spectrum falls as those of trained tables do."""
    if folder.exists():
        return folder
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=rows,
            hidden_size=dim,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            max_position_embeddings=8,
        )
    )
    with torch.no_grad():
        weight = model.embeddings.word_embeddings.weight
        weight.copy_(torch.randn(rows, dim) * torch.arange(1, dim + 1) ** -0.5)
    model.save_pretrained(folder)
    return folder


def speed_and_memory(folder: Path, rows: int, dim: int, ratio: float) -> None:
    """Wall time of coding and peak memory above the level after the imports, one process and two."""
    source = checkpoint(folder / f"table-{rows}-{dim}", rows, dim)
    alone = run(source, folder / "one", 1, ratio)
    together = run(source, folder / "two", 2, ratio)
    same = file_contents(folder / "one") == file_contents(folder / "two")
    seconds = [max(facts["seconds"] for facts in found) for found in (alone, together)]
    worked = [max(facts["cpu_seconds"] for facts in found) for found in (alone, together)]
    peaks = [max(facts["peak_bytes"] for facts in found) for found in (alone, together)]
    print(f"\nTable of {rows} x {dim} at {ratio:g}x, one thread a process; outputs the same: {same}\n")
    print_table(
        ("", "1 process", "2 processes", "quotient", "target"),
        [
            ("seconds", *seconds, seconds[0] / seconds[1], f">= {TARGETS['speed-up']}"),
            ("CPU seconds a process", *worked, worked[0] / worked[1], ""),
            ("peak MiB a process", *(peak / 2**20 for peak in peaks), peaks[1] / peaks[0], f"<= {TARGETS['memory']}"),
        ],
    )
    for name in ("one", "two"):
        shutil.rmtree(folder / name)


def exchanged(folder: Path) -> None:
    """Bytes that each process hands over in a round of refinement, and in all, for tables of more and more rows."""
    found = []
    for rows in (8192, 16384, 32768):
        source = checkpoint(folder / f"table-{rows}-64", rows, 64)
        facts = run(source, folder / "out", 2, 25.0)[0]
        shutil.rmtree(folder / "out")
        found.append((rows, facts["code_bits"], facts["last_round_bytes"], model_of_round(facts["code_bits"], 64),
                      facts["all_bytes"]))  # fmt: skip
    print("\nBytes exchanged by a process, tables of V x 64\n")
    print_table(("V", "code bits m", "a joint round", "8 m (m + d + 1)", "the whole run"), found)


def model_of_round(bits: int, dim: int) -> int:
    """Bytes that a process hands over in a round: the sums of the refit, in float64."""
    return 8 * bits * (bits + dim + 1)


def killed(folder: Path, times: int) -> None:
    """Kills runs at random moments, goes on, and compares the bytes."""
    source = checkpoint(folder / "table-9000-32", 9000, 32)
    start = time.perf_counter()
    run(source, folder / "whole", 1, 8.0)
    duration = time.perf_counter() - start
    expected, chance = file_contents(folder / "whole"), random.Random(0)
    same, kills = 0, 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for number in range(times):
        output = folder / f"killed-{number}"
        command = [sys.executable, "-m", WORKER, str(source), str(output), "8.0"]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            process.wait(duration * chance.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            run(source, output, 1, 8.0)
        same += file_contents(output) == expected
    print(
        f"\n{kills} of {times} runs killed with SIGKILL at random moments: {same} of {times} ended with the same bytes"
    )


def cost(rows: int, dim: int, bits: int, processes: int, constants: tuple[float, float, float]) -> float:
    """Seconds of coding: per row a sweep of m^2 and a refit of m (m + d), per process the solves and the exchange.

    Args:
        rows: V.
        dim: d.
        bits: m.
        processes: P; each holds the blocks of 4096 rows that fall to it.
        constants: seconds of one unit of work per row and of a solve, and bytes a second exchanged.
    """
    sweep, solve, bandwidth = constants
    blocks = math.ceil(math.ceil(rows / 4096) / processes)
    local = min(rows, blocks * 4096) * bits * (bits + dim)
    traffic = 0.0 if processes == 1 else 2 * (processes - 1) / processes * model_of_round(bits, dim)
    return sweep * local + solve * (bits**3 + dim**3) + ROUNDS * traffic / bandwidth


ROUNDS = 20


def model(folder: Path) -> None:
    """Fits the cost model to small runs, checks it, and extrapolates."""
    shapes = [(16384, 64), (32768, 64), (16384, 128)]
    found = []
    for rows, dim in shapes:
        source = checkpoint(folder / f"table-{rows}-{dim}", rows, dim)
        for processes in (1, 2):
            facts = run(source, folder / "out", processes, 25.0)
            shutil.rmtree(folder / "out")
            found.append((rows, dim, facts[0]["code_bits"], processes, max(one["seconds"] for one in facts)))
    work = torch.tensor(
        [
            [
                cost(row[0], row[1], row[2], row[3], (1.0, 0.0, 1e9)),
                cost(row[0], row[1], row[2], row[3], (0.0, 1.0, 1e9)),
            ]
            for row in found
        ],
        dtype=torch.float64,
    )
    measured = torch.tensor([row[4] for row in found], dtype=torch.float64)
    scaled = work / measured.unsqueeze(1)  # relative residuals count
    sweep, solve = (
        torch.linalg.lstsq(scaled, torch.ones(len(found), 1, dtype=torch.float64)).solution.flatten().tolist()
    )
    constants = (sweep, max(solve, 0.0), 1e9)
    print("\nCost model, one thread a process, 1 GB/s between processes: measured here\n")
    print_table(
        ("V", "d", "m", "processes", "seconds", "by the model"),
        [(*row, cost(row[0], row[1], row[2], row[3], constants)) for row in found],
    )
    print("\nExtrapolated\n")
    rows = []
    for vocabulary, dim in ((131072, 384), (262144, 640), (262144, 2304)):
        bits = round(1.2 * dim)
        for processes in (1, 2, 8, 64):
            seconds = cost(vocabulary, dim, bits, processes, constants)
            share = -(-vocabulary // processes) * (2 * 4 * dim + bits) / GIB
            traffic = 0 if processes == 1 else ROUNDS * model_of_round(bits, dim) / GIB
            rows.append((vocabulary, dim, bits, processes, seconds, traffic, share))
    print_table(("V", "d", "m", "processes", "seconds", "GiB exchanged a process", "GiB of rows a process"), rows)


def main() -> None:
    """Runs the parts named on the command line."""
    parts = ("speed", "exchange", "kill", "model")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"of {', '.join(parts)}")
    parser.add_argument("--rows", type=int, default=131072)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--ratio", type=float, default=25.0)
    parser.add_argument("--kills", type=int, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "speed" in chosen.parts:
            speed_and_memory(folder, chosen.rows, chosen.dim, chosen.ratio)
        if "exchange" in chosen.parts:
            exchanged(folder)
        if "kill" in chosen.parts:
            killed(folder, chosen.kills)
        if "model" in chosen.parts:
            model(folder)


if __name__ == "__main__":
    main()
