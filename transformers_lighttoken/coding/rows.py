"""Rows coded relative to their norm, and the row scales that undo it. Beyond the paper."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .decode import DECODE_BLOCK_ROWS, decode_unscaled
from .packing import bfloat16_of_bits, bits_of_bfloat16
from .plan import CodingPlan


@dataclass(frozen=True)
class Normalization:
    """Division of rows before coding: by their own norms, or all by one power of two.

    Attributes:
        norms: (n, 1) divisors of each row; all the same power of two when rows keep their norms.
        common: that power of two; 1 when each row has its own divisor.
    """

    norms: Tensor
    common: float

    @classmethod
    def of(cls, rows: Tensor, per_row: bool) -> "Normalization":
        """Divisors of (n, d) rows: their norms, or the power of two at or above the largest norm."""
        norms = _safe_norms(rows)
        if per_row:
            return cls(torch.where(norms > 0, norms, 1.0), 1.0)
        largest = float(norms.max()) if norms.numel() else 1.0
        common = float(2.0 ** torch.tensor(max(largest, 1e-30)).log2().ceil())
        return cls(torch.full_like(norms, common), common)

    @classmethod
    def second_moment_of_units(cls, rows: Tensor) -> Tensor:
        """Sum of x^T x over rows divided by their own norms. (d, d)."""
        units = cls.of(rows, per_row=True).apply(rows)
        return units.t() @ units

    def apply(self, rows: Tensor) -> Tensor:
        """Rows divided by their divisors, norms at most 1."""
        return rows / self.norms

    def restore_scales(self, stored: dict[str, Tensor]) -> None:
        """Multiplies the stored decoders by the common power of two, exactly."""
        if self.common == 1.0:
            return
        for name in [name for name in stored if name.endswith("_scale") and stored[name].dtype == torch.int16]:
            if name != "low_rank_left_scale":  # the right factor carries the factor of the product
                stored[name] = bits_of_bfloat16(bfloat16_of_bits(stored[name]) * self.common)


def _safe_norms(rows: Tensor) -> Tensor:
    """Norms whose squares neither overflow nor underflow. (n, 1)."""
    peaks = rows.abs().amax(dim=1, keepdim=True)
    return peaks * (rows / torch.where(peaks > 0, peaks, 1.0)).norm(dim=1, keepdim=True)


def fit_row_scales(rows: Tensor, plan: CodingPlan, stored: dict[str, Tensor], metric: Tensor | None) -> Tensor:
    """Least-squares scale of each row: s = x^T M y / y^T M y, at least zero.

    Args:
        rows: (n, d) float32 rows in storage order.
        plan: what is stored.
        stored: the stored tensors, all but the row scales.
        metric: (d, d) M; None for the plain one.

    Returns:
        (n,) float32.
    """
    scales = torch.empty(rows.shape[0], device=rows.device)
    for slots in torch.arange(rows.shape[0], device=rows.device).split(DECODE_BLOCK_ROWS):
        decoded = decode_unscaled(plan, stored, slots)
        weighted = decoded if metric is None else decoded @ metric
        energy = (weighted * decoded).sum(dim=1)
        product = (weighted * rows[slots]).sum(dim=1)
        scales[slots] = torch.where(energy > 0, product / energy, 0.0).clamp(min=0)
    return scales
