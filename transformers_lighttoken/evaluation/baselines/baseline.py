"""What all baselines share: sizes, stored bytes, and a table decoded from what would be stored."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

Size = dict[str, int]
"""Size parameters of a method, such as its rank."""


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """A table as a baseline would store it, decoded.

    Attributes:
        name: of the baseline.
        table: (V, d) float32, decoded from the stored values, on the device of the original.
        stored_bytes: all that decoding needs: codes, codebooks, factors, rotations, scales, means.
        parameters: the size parameters that were chosen.
    """

    name: str
    table: Tensor
    stored_bytes: int
    parameters: Size

    @property
    def ratio(self) -> float:
        """4 V d / stored bytes."""
        return 4 * self.table.numel() / self.stored_bytes


class Baseline(ABC):
    """A method of a given precision, whose size parameters decide the stored bytes."""

    @abstractmethod
    def stored_bytes(self, num_rows: int, dim: int, size: Size) -> int:
        """Bytes of a table of `num_rows` x `dim` at this size."""

    @abstractmethod
    def smallest(self, num_rows: int, dim: int) -> Size:
        """The size with the fewest bytes."""

    @abstractmethod
    def largest(self, weight: Tensor, budget: int) -> Size:
        """The largest size within a budget that `smallest` fits into.

        Args:
            weight: (V, d) float32.
            budget: in bytes.
        """

    @abstractmethod
    def reconstruct(self, weight: Tensor, size: Size, seed: int) -> Tensor:
        """Fits the method and decodes what it would store.

        Args:
            weight: (V, d) float32.
            size: the size parameters.
            seed: of all random choices.

        Returns:
            (V, d) float32.
        """


def store(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The float32 values that remain after storing in `dtype`.

    Raises:
        ValueError: if a value is too large for `dtype`.
    """
    stored = values.to(dtype)
    if not bool(torch.isfinite(stored).all()):
        raise ValueError(
            f"a factor or codebook of up to {float(values.abs().max()):g} overflows {dtype}: use the _fp32 baseline."
        )
    return stored.float()
