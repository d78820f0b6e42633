"""What a stopped run needs to go on from its last finished step with the same result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Finished:
    """What a stage had reached.

    Attributes:
        step: number of finished steps.
        tensors: what the further steps depend on.
    """

    step: int = 0
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class Journal(Protocol):
    """Remembers what is finished. Every process keeps its own part."""

    def load(self, stage: str) -> Finished | None:
        """The last step that all processes have finished, or None."""
        ...

    def save(self, stage: str, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Remembers that `step` steps are finished; all processes save the same steps."""
        ...


class NoJournal:
    """Remembers nothing."""

    def load(self, stage: str) -> None:
        """There is never anything."""
        return None

    def save(self, stage: str, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Does nothing."""


NO_JOURNAL = NoJournal()
