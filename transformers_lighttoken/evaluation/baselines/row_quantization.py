"""Integers with one scale per row: int8 and int4."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...coding.packing import packed_bytes
from ...coding.reduction import row_blocks
from .baseline import Baseline, Size

_CLIPS = tuple(1 - step / 20 for step in range(11))
"""Shares of a row's largest magnitude that are tried as its range, from all of it down to a half."""


@dataclass(frozen=True)
class RowQuantization(Baseline):
    """Symmetric integers and a float32 scale per row; it has one size only.

    Attributes:
        bits: of an integer, 8 or 4.
    """

    bits: int

    def stored_bytes(self, num_rows: int, dim: int, size: Size) -> int:
        """V d integers, packed, and V scales."""
        return packed_bytes(num_rows, dim * self.bits) + 4 * num_rows

    def smallest(self, num_rows: int, dim: int) -> Size:
        """The only size."""
        return {"bits": self.bits}

    def largest(self, weight: Tensor, budget: int) -> Size:
        """The only size."""
        return {"bits": self.bits}

    def reconstruct(self, weight: Tensor, size: Size, seed: int) -> Tensor:
        """Rounds and scales back; there is nothing random."""
        codes, scales = quantize(weight, self.bits)
        return codes.float() * scales.unsqueeze(1)


def quantize(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Rounds each row to signed integers; its range is the one of least squared error among a few clippings.

    Args:
        weight: (V, d) float32.
        bits: of an integer; codes lie in [-(2**(bits - 1) - 1), 2**(bits - 1) - 1].

    Returns:
        codes (V, d) int8 and scales (V,) float32.
    """
    parts = [_quantize_block(block, 2 ** (bits - 1) - 1) for _, block in row_blocks(weight)]
    return torch.cat([codes for codes, _ in parts]), torch.cat([scales for _, scales in parts])


def _quantize_block(rows: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    peak = rows.abs().amax(dim=1)  # (n,)
    peak = torch.where(peak > 0, peak, 1.0)
    best_error = torch.full_like(peak, torch.inf)
    best_codes, best_scales = torch.zeros_like(rows), torch.ones_like(peak)
    for clip in _CLIPS:
        scales = peak * (clip / limit)  # (n,)
        codes = (rows / scales.unsqueeze(1)).round().clamp(-limit, limit)  # (n, d)
        error = (codes * scales.unsqueeze(1) - rows).square().sum(dim=1)  # (n,)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_codes = torch.where(better.unsqueeze(1), codes, best_codes)
        best_scales = torch.where(better, scales, best_scales)
    return best_codes.to(torch.int8), best_scales
