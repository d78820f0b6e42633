"""Several processes that share a table's rows, played by threads that exchange tensors."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

from transformers_lighttoken.coding.share import RowShare

T = TypeVar("T")


def in_processes(count: int, work: Callable[[RowShare], T]) -> list[T]:
    """What each of `count` processes makes of its share."""
    barrier, slots = Barrier(count, timeout=60), [torch.empty(0)] * count

    def exchange(index: int, tensor: Tensor) -> list[Tensor]:
        slots[index] = tensor
        barrier.wait()
        every = list(slots)
        barrier.wait()
        return every

    def run(index: int) -> T:
        return work(
            RowShare(
                index,
                count,
                reduce=lambda total: torch.stack(exchange(index, total)).sum(dim=0),
                gather=lambda tensor: exchange(index, tensor),
            )
        )

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
