"""Float32 latents behind what is stored rounded, so that it can be trained through its rounding. Beyond the paper.

Latents made from stored tensors round to the same bytes again. They are relative to what is stored, so that one
learning rate suits tables of any scale: a matrix entry to the full scale of its row, a row scale to the mean of all on
a logarithmic axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from .decode import StoredTensors
from .packing import bfloat16_of_bits, bits_of_bfloat16, float32_of_bits, pack_values, unpack_values
from .plan import CodingPlan, DecoderDtype
from .quantize import INT8_MAX, ROUND_UP, dequantize_rows, dequantize_scales

Part = Literal["decoder", "low_rank", "row_scales"]
OCTAVES = 8.0
"""Powers of two by which a row scale changes when its latent changes by one."""


class Rounding(Protocol):
    """How one stored tensor follows from its latents."""

    @property
    def part(self) -> Part: ...  # noqa: D102

    def latents(self, stored: StoredTensors) -> tuple[Tensor, Tensor]:
        """Float32 latents of what is stored, and their unit, which stays fixed."""
        ...

    def round(self, latents: Tensor, unit: Tensor, stored: StoredTensors) -> dict[str, Tensor]:
        """The stored tensors that latents round to; what does not train is read from `stored`."""
        ...

    def values(self, latents: Tensor, unit: Tensor, stored: StoredTensors) -> Tensor:
        """The float32 values that the stored rounding stands for, with the gradient of the latents themselves."""
        ...


@dataclass(frozen=True)
class MatrixRounding:
    """A decoder or a low-rank factor: int8 or float16 with one scale a row.

    The latent 1 stands for the full scale that the row has when training starts. Where training leaves that range, the
    row's scale grows along.

    Attributes:
        part: of the table.
        name: of the stored matrix.
        dtype: in which it is stored.
    """

    part: Part
    name: str
    dtype: DecoderDtype

    @property
    def _full_scale(self) -> float:
        return INT8_MAX if self.dtype == "int8" else 1.0

    def latents(self, stored: StoredTensors) -> tuple[Tensor, Tensor]:
        """Latents (rows, columns) and the scales (rows,) that they are relative to."""
        matrix = stored[self.name]
        entries = matrix.view(torch.float16).float() if self.dtype == "float16" else matrix.float()
        return entries / self._full_scale, bfloat16_of_bits(stored[self.name + "_scale"])

    def round(self, latents: Tensor, unit: Tensor, stored: StoredTensors) -> dict[str, Tensor]:
        """The stored matrix and the bits of its scales."""
        entries = latents.detach() * self._full_scale
        if self.dtype == "float16":
            return {self.name: entries.half().view(torch.int16), self.name + "_scale": bits_of_bfloat16(unit)}
        peak = entries.abs().amax(dim=1)  # (rows,)
        growth = torch.where(peak > INT8_MAX + 0.5, peak / INT8_MAX * ROUND_UP, 1.0)
        scale_bits = bits_of_bfloat16(unit * growth)
        entries = entries / (bfloat16_of_bits(scale_bits) / unit).unsqueeze(1)
        rounded = entries.round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
        return {self.name: rounded, self.name + "_scale": scale_bits}

    def values(self, latents: Tensor, unit: Tensor, stored: StoredTensors) -> Tensor:
        """(rows, columns) float32."""
        rounded = self.round(latents, unit, stored)
        dequantized = dequantize_rows(rounded[self.name], rounded[self.name + "_scale"])
        return straight_through(latents * (unit * self._full_scale).unsqueeze(1), dequantized)


@dataclass(frozen=True)
class ScaleRounding:
    """Row scales on their logarithmic grid, which stays as it is; scales of zero stay zero.

    Attributes:
        part: of the table.
        name: of the stored codes.
        rows: how many.
        bits: of one code.
    """

    part: Part
    name: str
    rows: int
    bits: int

    def latents(self, stored: StoredTensors) -> tuple[Tensor, Tensor]:
        """Latents (rows,) and the code (1,) that they are relative to: that of the mean."""
        codes, grid = self._codes(stored), float32_of_bits(stored[self.name + "_range"])
        positive = codes > 0
        middle = ((codes * positive).sum() / positive.sum().clamp(min=1)).round().view(1)
        offset = torch.where(positive, codes - middle, 0.0)
        return offset * grid[1] / OCTAVES, middle

    def round(self, latents: Tensor, unit: Tensor, stored: StoredTensors) -> dict[str, Tensor]:
        """The packed codes."""
        return {self.name: pack_values(self._rounded(latents, unit, stored).unsqueeze(1), self.bits)}

    def values(self, latents: Tensor, unit: Tensor, stored: StoredTensors) -> Tensor:
        """(rows,) float32."""
        limits = stored[self.name + "_range"]
        codes = self._rounded(latents, unit, stored)
        lowest, step = float32_of_bits(limits).unbind()
        real = torch.exp2(lowest + step * (unit - 1) + OCTAVES * latents)
        real = torch.where(codes > 0, real, 0.0)
        return straight_through(real, dequantize_scales(codes, limits))

    def _codes(self, stored: StoredTensors) -> Tensor:
        packed = stored[self.name]
        every_row = torch.arange(self.rows, device=packed.device)
        return unpack_values(packed, every_row, 1, self.bits).squeeze(1).float()

    def _rounded(self, latents: Tensor, unit: Tensor, stored: StoredTensors) -> Tensor:
        """(rows,) uint8."""
        step, codes = float32_of_bits(stored[self.name + "_range"])[1], self._codes(stored)
        movable = (codes > 0) & (step > torch.finfo(torch.float32).tiny)  # a grid of one point has no step
        moved = (latents.detach() * OCTAVES / step + unit).round().clamp(1, (1 << self.bits) - 1)
        return torch.where(movable, moved, codes).to(torch.uint8)


def roundings(plan: CodingPlan, parts: Sequence[str]) -> dict[str, MatrixRounding | ScaleRounding]:
    """The stored tensors of some parts of a table, by name, each with how it is rounded."""
    matrices: list[tuple[Part, str]] = []
    scales: list[ScaleRounding] = []
    if plan.rank:
        matrices.extend([("low_rank", "low_rank_left"), ("low_rank", "low_rank_right")])
    if plan.code_bits:
        matrices.append(("decoder", "decoder"))
    if plan.row_scale_bits:
        scales.append(ScaleRounding("row_scales", "row_scale", plan.num_coded, plan.row_scale_bits))
    for number, tier in enumerate(plan.tiers, start=1):
        if tier.kind == "learnt":
            matrices.append(("decoder", f"tier_{number}_decoder"))
        if tier.row_scale_bits:
            scales.append(ScaleRounding("row_scales", f"tier_{number}_row_scale", tier.coverage, tier.row_scale_bits))
    found: list[MatrixRounding | ScaleRounding] = [
        *(MatrixRounding(part, name, plan.decoder_dtype) for part, name in matrices),
        *scales,
    ]
    return {rounding.name: rounding for rounding in found if rounding.part in parts}


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, real: Tensor, rounded: Tensor) -> Tensor:  # noqa: ARG004
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


def straight_through(real: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, with the gradient of the real ones (Bengio et al. 2013)."""
    return _StraightThrough.apply(real, rounded)  # pyright: ignore[reportReturnType]
