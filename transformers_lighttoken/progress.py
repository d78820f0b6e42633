"""Progress bars on standard error, switched off as transformers' own are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

from .coding.encode import Progress


class _Bars:
    """One bar at a time: a new one where another piece of work starts."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.work: tuple[str, int] | None = None
        self.done = 0
        self.text = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.work != (what, total) or done < self.done:
            self.close()
            self.bar = transformers_logging.tqdm(desc=what, total=total, initial=done)  # done before the bar's clock
            self.work, self.done = (what, total), done
        if self.text and hasattr(self.bar, "set_postfix_str"):
            self.bar.set_postfix_str(self.text, refresh=False)
        self.text = ""
        self.bar.update(done - self.done)
        self.done = done

    def note(self, text: str) -> None:
        """Shows something beside the bar at its next step."""
        self.text = text

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = self.work = None


@contextmanager
def progress_bars(progress: Progress | None = None, shown: bool = True) -> Iterator[Progress]:
    """Gives a `Progress` that shows bars, or the one that is given.

    `transformers.utils.logging.disable_progress_bar()` switches the bars off.

    Args:
        progress: used instead of bars, if not None.
        shown: whether anything is told at all; only one of several processes does.

    Yields:
        The `Progress` to report to.
    """
    if not shown:
        yield lambda *_: None
        return
    if progress is not None:
        yield progress
        return
    bars = _Bars()
    try:
        yield bars
    finally:
        bars.close()
