"""What a run tells of itself while it works: on its progress bars, and in a log that can be followed."""

import logging
import time
from pathlib import Path

from ..coding.encode import Progress
from ..distributed import Processes

logger = logging.getLogger(__name__)


class RunLog:
    """Passes progress on and adds the error so far, the bytes exchanged and the time left; one line a step in a file.

    Args:
        progress: shown to the user.
        path: of the log; lines are added at its end. None for no log. Only the main process writes.
        processes: of the run.
    """

    def __init__(self, progress: Progress, path: Path | None, processes: Processes) -> None:
        self._progress = progress
        self._path = path if processes.is_main else None
        self._processes = processes
        self._error: float | None = None
        self._stage = ""
        self._began = (0.0, 0)

    def note_error(self, error: float) -> None:
        """Remembers the relative error so far."""
        self._error = error
        note = getattr(self._progress, "note", None)
        if note is not None:
            note(f"error {error:.4f}")

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tells of a step; see `coding.encode.Progress`."""
        now = time.monotonic()
        if what != self._stage:
            self._stage, self._began = what, (now, done)
        self._progress(what, done, total)
        if self._path is not None:
            self._write(what, done, total, now)

    def _write(self, what: str, done: int, total: int, now: float) -> None:
        began, first = self._began
        parts = [f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {what} {done}/{total}"]
        if self._error is not None and what == "refinement rounds":
            parts.append(f"error {self._error:.4f}")
        if self._processes.count > 1:
            parts.append(f"{self._processes.bytes_exchanged} bytes exchanged")
        if done > first:
            parts.append(f"{(now - began) / (done - first) * (total - done):.0f} s left")
        self._add(", ".join(parts))

    def _add(self, line: str) -> None:
        """Adds a line; a log that cannot be written ends there, and the run goes on."""
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            logger.warning("The log %s cannot be written, and ends here: %s.", self._path, error.strerror or error)
            self._path = None
