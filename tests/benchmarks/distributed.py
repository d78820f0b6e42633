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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from scipy.optimize import nnls
from transformers import BertConfig, BertModel

from tests.benchmarks.common import print_table
from tests.checkpoints import file_contents
from transformers_lighttoken.coding.reduction import CPU_BLOCK_ROWS

ROOT = Path(__file__).parents[2]
WORKER = "tests.benchmarks.distributed_worker"
TARGETS = {"speed-up": 1.7, "memory": 0.65}
GIB = 2**30
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command_of(source: Path, output: Path, processes: int, ratio: float) -> list[str]:
    """The command that compresses a checkpoint."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] * (processes > 1)
    return [sys.executable, *launcher, "-m", WORKER, str(source), str(output), str(ratio)]


def run(source: Path, output: Path, processes: int, ratio: float) -> list[dict[str, Any]]:
    """Compresses a checkpoint; what each process measured."""
    command = command_of(source, output, processes, ratio)
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
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
    """Bytes that each process hands over, in a round of refinement and by gathering, against what the model says."""
    found = []
    for rows in (8192, 16384, 32768):
        source = checkpoint(folder / f"table-{rows}-64", rows, 64)
        for processes in (1, 2):
            facts = run(source, folder / "out", processes, 25.0)[0]
            shutil.rmtree(folder / "out")
            bits = facts["code_bits"]
            of_round = model_of_round(bits, 64) if processes > 1 else 0
            gathered = model_of_gathering(rows, bits, processes)
            found.append((rows, bits, processes, facts["last_round_bytes"], of_round, facts["gathered_bytes"], gathered,
                          facts["all_bytes"], traffic(rows, 64, bits, processes)))  # fmt: skip
    print("\nBytes exchanged by a process, tables of V x 64, and what the model says\n")
    header = ("V", "m", "processes", "a joint round", "8 m (m + d + 1)", "gathered", "model", "the whole run", "model")
    print_table(header, found)


def model_of_round(bits: int, dim: int) -> int:
    """Bytes that a process hands over in a round: the sums of the refit, in float64."""
    return 8 * bits * (bits + dim + 1)


def kill_all(launcher: int) -> None:
    """Kills a process and all that it has started, with SIGKILL."""
    process = psutil.Process(launcher)
    for one in [*process.children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def killed(folder: Path, times: int, processes: int) -> None:
    """Kills all processes of runs at random moments, goes on, and compares the bytes and what lies beside them."""
    source, name = checkpoint(folder / "table-9000-32", 9000, 32), f"whole-{processes}"
    start = time.perf_counter()
    run(source, folder / name, processes, 8.0)
    duration = time.perf_counter() - start
    expected, chance = file_contents(folder / name), random.Random(0)
    same, kills, left = 0, 0, 0
    for number in range(times):
        output = folder / f"killed-{processes}-{number}"
        command = command_of(source, output, processes, 8.0)
        launched = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            launched.wait(duration * chance.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            kill_all(launched.pid)
            launched.wait()
            kills += 1
            partial = output.with_name(f".{output.name}.partial")
            if partial.exists() or not output.exists():
                run(source, output, processes, 8.0)
            left += partial.exists()
        same += file_contents(output) == expected
    print(
        f"\n{processes} process(es): {kills} of {times} runs killed with SIGKILL at random moments; {same} of {times} "
        f"ended with the same bytes, {left} left files behind"
    )


def work(rows: int, dim: int, bits: int, processes: int) -> list[float]:
    """What the busiest of P processes does, in units whose costs are measured.

    Its share of rows is a number of blocks. A row costs a step per bit, m, and products of m (m + d); what does
    not depend on rows is a constant and solves of m^3 + d^3.
    """
    share = min(rows, CPU_BLOCK_ROWS * math.ceil(math.ceil(rows / CPU_BLOCK_ROWS) / processes))
    return [share * bits, share * bits * (bits + dim), bits**3 + dim**3, 1.0]


def model_of_gathering(rows: int, bits: int, processes: int) -> float:
    """Bytes that a process hands over as its share of what is gathered once.

    For each row: its code, its norm in float32 for each of the two plans (the first only checks the request), its scale
    in float32, and its cosine in float64.
    """
    return 0.0 if processes == 1 else rows / processes * (bits / 8 + _GATHERED_PER_ROW)


def traffic(rows: int, dim: int, bits: int, processes: int) -> float:
    """Bytes that a process hands over for the rounds of refinement and what is gathered; a ring sends twice that."""
    of_rounds = 0.0 if processes == 1 else float(_ROUNDS * model_of_round(bits, dim))
    return of_rounds + model_of_gathering(rows, bits, processes)


_GATHERED_PER_ROW = 2 * 4 + 4 + 8
_ROUNDS = 15  # joint ones, and those of single stages, of fewer bits, as parts of one
_BANDWIDTH = 1e9


def cost(rows: int, dim: int, bits: int, processes: int, prices: Sequence[float]) -> float:
    """Seconds: the work at its prices, and the traffic at 1 GB/s."""
    done = sum(amount * price for amount, price in zip(work(rows, dim, bits, processes), prices, strict=True))
    return done + 2 * traffic(rows, dim, bits, processes) / _BANDWIDTH


def model(folder: Path) -> None:
    """Fits the cost model to runs of one process, checks it against two, and extrapolates.

    CPU seconds, so that other work on the machine does not count.
    """
    found = []
    for rows, dim in ((8192, 64), (32768, 64), (16384, 128), (8192, 256), (16384, 384)):
        source = checkpoint(folder / f"table-{rows}-{dim}", rows, dim)
        for processes in (1, 2):
            facts = run(source, folder / "out", processes, 25.0)
            shutil.rmtree(folder / "out")
            seconds = max(one["cpu_seconds"] for one in facts)
            found.append((rows, dim, facts[0]["code_bits"], processes, seconds))
    alone = [row for row in found if row[3] == 1]
    scaled = [[amount / row[4] for amount in work(row[0], row[1], row[2], 1)] for row in alone]
    prices, _ = nnls(np.array(scaled), np.ones(len(alone)))  # relative errors count
    print("\nCost model, one thread a process, fitted to one process: CPU seconds here\n")
    print_table(
        ("V", "d", "m", "processes", "seconds", "by the model"),
        [(*row, cost(row[0], row[1], row[2], row[3], prices)) for row in found],
    )
    print("\nExtrapolated, 1 GB/s between processes\n")
    rows_of_table = []
    for rows, dim in ((131072, 384), (262144, 640), (262144, 2304)):
        bits = round(1.2 * dim)
        for processes in (1, 2, 8, 64):
            share = math.ceil(rows / processes) * (2 * 4 * dim + bits) / GIB
            exchange = traffic(rows, dim, bits, processes) / GIB
            rows_of_table.append(
                (rows, dim, bits, processes, cost(rows, dim, bits, processes, prices), exchange, share)
            )
    header = ("V", "d", "m", "processes", "seconds", "GiB exchanged a process", "GiB of rows a process")
    print_table(header, rows_of_table)


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
            killed(folder, chosen.kills, 1)
            killed(folder, chosen.kills, 2)
        if "model" in chosen.parts:
            model(folder)


if __name__ == "__main__":
    main()
