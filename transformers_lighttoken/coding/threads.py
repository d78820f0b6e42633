"""Results that do not depend on the number of CPU threads, and yet use all of them.

A product of matrices, or a factorisation, may round differently on another number of threads. So while a table is
coded each of them runs on one thread, and the threads work on different blocks of rows at the same time.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
B = TypeVar("B")
_workers: ContextVar[int] = ContextVar("workers", default=1)


def one_thread_each(function: Callable[P, T]) -> Callable[P, T]:
    """Runs a function on one thread; `for_each` uses as many as PyTorch was set to (`torch.set_num_threads`)."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        threads = torch.get_num_threads()
        if threads == 1:
            return function(*args, **kwargs)
        token = _workers.set(threads)
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(threads)
            _workers.reset(token)

    return run


def for_each(blocks: Iterable[B], work: Callable[[B], None], device: torch.device) -> None:
    """Works on blocks that do not depend on each other, several at a time on a CPU of several threads.

    The calling thread is one of these, since allocators keep what each thread has freed. Once a block fails no further
    one is begun.

    Args:
        blocks: of rows.
        work: on one block; what it writes no other block may read or write.
        device: of the rows; on another than a CPU one block follows the other.
    """
    left = deque(blocks)
    helpers = min(_workers.get(), len(left)) - 1 if device.type == "cpu" else 0

    def work_on_some() -> None:
        try:
            for block in _taken(left):
                work(block)
        finally:
            left.clear()

    if helpers < 1:
        work_on_some()
        return
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def help_out() -> None:
        torch.set_num_threads(1)
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            work_on_some()

    with ThreadPoolExecutor(helpers) as pool:
        helping = [pool.submit(help_out) for _ in range(helpers)]
        work_on_some()
        for helper in helping:
            helper.result()


def _taken(left: deque[B]) -> Iterator[B]:
    """Takes from what several threads share, until nothing is left."""
    while True:
        try:
            block = left.popleft()
        except IndexError:
            return
        yield block
