"""Several processes working on one table, through accelerate. No launcher and no communication of our own."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from .coding.share import RowShare

T = TypeVar("T")
# The others wait while the main process measures a model or copies a large checkpoint.
_LONGEST_WAIT = timedelta(hours=12)


class ProcessError(RuntimeError):
    """Another process failed; the message says which, and why."""


@contextmanager
def launched_accelerator(device: str = "auto") -> Iterator[Accelerator | None]:
    """The accelerator of the processes that `accelerate launch` or `torchrun` started; None if there is only one.

    The process group is closed at the end: a process that exits with it open may be aborted by its threads. After an
    error it is left to the exit, since closing it waits for what other processes no longer answer.

    Args:
        device: "cpu" keeps them off the GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield None
        return
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    patience = InitProcessGroupKwargs(timeout=_LONGEST_WAIT)
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[patience])
    yield accelerator
    accelerator.end_training()


class Processes:
    """The processes of a run, and this one's place among them.

    Args:
        accelerator: of the launched processes; None for a single process.
    """

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        if accelerator is not None and not isinstance(accelerator, Accelerator):
            raise TypeError(f"accelerator must be an accelerate.Accelerator, got {type(accelerator).__name__}.")
        self._accelerator = accelerator
        self.index: int = 0 if accelerator is None else accelerator.process_index
        self.count: int = 1 if accelerator is None else accelerator.num_processes
        self.bytes_exchanged = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.index == 0

    @property
    def device(self) -> torch.device | None:
        """The device that accelerate gave this process; None where there is no accelerator."""
        return None if self._accelerator is None else self._accelerator.device

    @property
    def share(self) -> RowShare:
        """The rows of a table that this process codes."""
        return RowShare(self.index, self.count, self.reduce, self.gather)

    def reduce(self, total: Tensor) -> Tensor:
        """Sums a tensor over processes."""
        if self._accelerator is None or self.count == 1:
            return total
        self.bytes_exchanged += total.numel() * total.element_size()
        summed = self._accelerator.reduce(total.to(self._accelerator.device), "sum")
        return summed.to(total.device)  # pyright: ignore[reportAttributeAccessIssue]

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes; first dimensions may differ. Sent as bytes: nccl knows no int16."""
        if self._accelerator is None or self.count == 1:
            return [tensor]
        device = self._accelerator.device
        content = tensor.contiguous().to(device).view(-1).view(torch.uint8)
        size = torch.tensor([content.numel()], device=device)
        sizes: list[int] = self._accelerator.gather(size).tolist()  # pyright: ignore[reportAttributeAccessIssue]
        padded = torch.nn.functional.pad(content, (0, max(sizes) - content.numel()))
        self.bytes_exchanged += size.element_size() + padded.numel()
        if not max(sizes):
            return [tensor] * self.count
        parts = self._accelerator.gather(padded).view(self.count, -1)  # pyright: ignore[reportAttributeAccessIssue]
        return [
            part[:length].clone().view(tensor.dtype).view(-1, *tensor.shape[1:]).to(tensor.device)
            for part, length in zip(parts, sizes, strict=True)
        ]

    def gather_objects(self, items: list[T]) -> list[T]:
        """The items of all processes, in order of the processes."""
        return items if self.count == 1 else gather_object(items)

    def on_main(self, work: Callable[[], T]) -> T:
        """Does some work in the main process alone and gives its result to all. It must not exchange anything.

        Raises:
            ProcessError: in the others, if the main process fails.
        """
        if self.count == 1:
            return work()
        outcome: list[object] = [None, None]
        failure: Exception | None = None
        if self.is_main:
            try:
                outcome[0] = work()
            except Exception as error:  # noqa: BLE001 - raised below, once the others know
                failure, outcome[1] = error, f"{type(error).__name__}: {error}"
        broadcast_object_list(outcome)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise ProcessError(f"the main process failed with {outcome[1]}")
        return outcome[0]  # pyright: ignore[reportReturnType]

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """A block that fails in all processes if it fails in one. It must not exchange anything.

        Raises:
            ProcessError: in the processes where it did not fail.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised below, once the others know
            if self.count == 1:
                raise
            failure = error
        if self.count == 1:
            return
        told = self.gather_objects([failure and f"{type(failure).__name__}: {failure}"])
        if failure is not None:
            raise failure
        for number, message in enumerate(told):
            if message is not None:
                raise ProcessError(f"process {number} failed with {message}")

    def in_turn(self, work: Callable[[], T]) -> T:
        """Does some work in the first process of each machine, then in the others, which find its result cached."""
        if self._accelerator is None or self.count == 1:
            return work()
        results: list[T] = []
        for first in (True, False):
            with self.agreed():
                if self._accelerator.is_local_main_process is first:
                    results.append(work())
        return results[0]
