"""What each process of test_distributed_coding.py does: codes tables, and writes down what it got."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformers_lighttoken import LightTokenConfig, compress_table
from transformers_lighttoken.checkpoint.state import StateFiles
from transformers_lighttoken.coding.encode import EncodeOptions, encode
from transformers_lighttoken.coding.plan import CodingPlan, Tier
from transformers_lighttoken.coding.reduction import CPU_BLOCK_ROWS
from transformers_lighttoken.coding.refine import RefineSchedule
from transformers_lighttoken.coding.table import CompressedTable
from transformers_lighttoken.distributed import ProcessError, Processes, launched_accelerator

QUICK = RefineSchedule(rounds=2, sweeps=1, stage_rounds=1)


def table(rows: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(rows, dim, generator=generator) * torch.linspace(2, 0.1, dim)
    weight[rows // 2] = 0
    return weight


def zipf(rows: int) -> Tensor:
    shuffled = torch.randperm(rows, generator=torch.Generator().manual_seed(1))
    return 1 / (shuffled + 1).double()


def metric(dim: int) -> Tensor:
    root = torch.randn(dim, dim, generator=torch.Generator().manual_seed(5))
    return root @ root.t() / dim + 0.3 * torch.eye(dim)


def requests() -> Iterator[tuple[str, Tensor, LightTokenConfig, dict[str, Any]]]:
    """Some blocks of rows and a rest, less than a block, and exactly one block."""
    tiers = {"frequencies": zipf(13000), "exact_ids": [3, 12999, 17]}
    yield "tiers, metric, half", table(13000, 24).half(), LightTokenConfig(10), {**tiers, "metric": metric(24)}
    yield "low rank, rows as they are", table(9000, 16) * 40, LightTokenConfig(code_bits=12, rank=3), {}
    yield "fewer blocks than processes", table(300, 16), LightTokenConfig(code_bits=24), {}
    yield "one block", table(CPU_BLOCK_ROWS, 16), LightTokenConfig(6), {"frequencies": zipf(CPU_BLOCK_ROWS)}
    yield "trained, one block", table(300, 16), LightTokenConfig(code_bits=20, num_stages=2, solver="paper"), {}


def coded(processes: Processes) -> Iterator[tuple[str, CompressedTable]]:
    for name, weight, config, facts in requests():
        yield name, compress_table(weight, config, share=processes.share, **facts)
    equal = LightTokenConfig(6, tiers="equal")
    larger = compress_table(table(5000, 16), equal, share=processes.share, exact_ids=[9])
    yield "equal coverage", larger
    config, decoded = LightTokenConfig(6.7, tiers="equal"), larger.decode_all()
    yield "cut", compress_table(decoded, config, share=processes.share, exact_ids=[9], nested_in=larger)
    tiers = (Tier(8192, "learnt", 12, 0), Tier(5000, "rotated", 32, 4))
    plan = CodingPlan(9000, 16, rank=2, stage_bits=(20,), row_scale_bits=0, tiers=tiers, index_bytes=26)
    depths = (torch.arange(9000) < 8192).long() + (torch.arange(9000) < 5000).long()
    options = EncodeOptions(share=processes.share, schedule=QUICK)
    yield "learnt tier", encode(table(9000, 16), plan, depths, None, options)
    options = EncodeOptions(share=processes.share, schedule=QUICK, warm_start="autoencoder")
    yield "from the autoencoder", encode(table(9000, 16), CodingPlan(9000, 16, stage_bits=(20,)), None, None, options)


def trained(processes: Processes) -> tuple[str, float]:
    """Digest and relative error of a table that is trained in several epochs of several steps."""
    weight = table(9000, 16)
    config = LightTokenConfig(code_bits=24, num_stages=2, solver="paper")
    coded = compress_table(weight, config, share=processes.share)
    return coded.digest(), float((weight - coded.decode_all()).square().sum() / weight.square().sum())


def refused(processes: Processes) -> str:
    weight = table(9000, 16)
    weight[8999, 3] = float("nan")
    try:
        compress_table(weight, LightTokenConfig(code_bits=24), share=processes.share)
    except ValueError as error:
        return str(error)
    return "nothing"


def failures(processes: Processes) -> list[str]:
    """What every process gets where the last one fails, and where the main one does."""

    def fail() -> None:
        raise OSError(f"disk of process {processes.index}")

    told = []
    try:
        with processes.agreed():
            if processes.index == processes.count - 1:
                fail()
    except (OSError, ProcessError) as error:
        told.append(f"{type(error).__name__}: {error}")
    try:
        processes.on_main(fail)
    except (OSError, ProcessError) as error:
        told.append(f"{type(error).__name__}: {error}")
    return told


def unwritable(processes: Processes, folder: Path) -> str:
    """What a process gets where the last one cannot write its state files."""
    state = folder / f"state{processes.index}"
    if processes.index == processes.count - 1:
        state.write_text("a file where a folder should be")
    try:
        StateFiles(state, 0, processes).save("refinement", 1, {"codes": torch.zeros(1)})
    except (OSError, ProcessError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main() -> None:
    if os.environ.get("THREADS"):
        torch.set_num_threads(int(os.environ["THREADS"]))
    with launched_accelerator("cpu") as accelerator:
        processes = Processes(accelerator)
        facts: dict[str, Any] = {
            "processes": processes.count,
            "digests": {name: result.digest() for name, result in coded(processes)},
            "refused": refused(processes),
            "failures": failures(processes),
            "unwritable": unwritable(processes, Path(sys.argv[1])),
            "gathered": [part.tolist() for part in processes.gather(torch.arange(processes.index, dtype=torch.int16))],
            "trained": trained(processes),
        }
        Path(sys.argv[1], f"process{processes.index}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
