"""Rounding of real values to what is stored: decoder matrices and row scales."""

import torch
from torch import Tensor

from .packing import MAX_VALUE_BITS, bfloat16_of_bits, bits_of_bfloat16, bits_of_float32, float32_of_bits

INT8_MAX = 127
# A scale is rounded up to bfloat16 (8 significant bits), so that no entry leaves the int8 range.
ROUND_UP = 1.0 + 2.0**-8
_LOWER_QUANTILES = (0.0, 0.001, 0.01, 0.05)


def quantize_rows(matrix: Tensor, dtype: str, peak: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Stores a matrix as int8 or float16 with one bfloat16 scale per row. Beyond the paper.

    Args:
        matrix: (rows, columns) real values.
        dtype: "int8" or "float16".
        peak: (rows,) largest magnitude of each row, where other processes hold further columns.

    Returns:
        The stored matrix, int8 or (bits of float16) int16, and the bits of the scales, (rows,) int16.

    Raises:
        ValueError: for any other `dtype`.
    """
    peak = matrix.float().abs().amax(dim=1) if peak is None else peak  # (rows,)
    limit = INT8_MAX if dtype == "int8" else 1.0
    scale_bits = bits_of_bfloat16(torch.where(peak > 0, peak / limit * ROUND_UP, 1.0))
    normalized = matrix.float() / bfloat16_of_bits(scale_bits).unsqueeze(1)
    if dtype == "int8":
        return normalized.round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8), scale_bits
    if dtype == "float16":
        return normalized.to(torch.float16).contiguous().view(torch.int16), scale_bits
    raise ValueError(f"decoder dtype must be 'int8' or 'float16', got {dtype!r}.")


def dequantize_rows(stored: Tensor, scale_bits: Tensor) -> Tensor:
    """The float32 matrix behind `quantize_rows`."""
    values = stored.view(torch.float16).float() if stored.dtype == torch.int16 else stored.float()
    return values * bfloat16_of_bits(scale_bits).unsqueeze(1)


def quantize_scales(scales: Tensor, bits: int, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rounds positive row scales to a geometric grid; code 0 is kept for a scale of zero. Beyond the paper.

    Scales far below the others (rows that were never trained) would stretch the grid, so its lower end is the quantile
    that costs the least squared error.

    Args:
        scales: (rows,) values >= 0.
        bits: width of one code, 2 to 8.
        importance: (rows,) weights of the squared error; equal when None.

    Returns:
        Codes, (rows,) uint8, and the bits of (log2 of the lowest scale, log2 of the step), (2,) int32.
    """
    positive = scales[scales > 0].float()
    if positive.numel() == 0:
        return torch.zeros_like(scales, dtype=torch.uint8), bits_of_float32(scales.new_zeros(2))
    top = positive.max().log2()
    candidates = []
    for share in _LOWER_QUANTILES:
        bottom = torch.quantile(_subsample(positive), share).log2()
        grid = torch.stack([bottom, (top - bottom) / max(1, (1 << bits) - 2)])
        codes = _nearest_scale_codes(scales.float(), grid, bits)
        square = (dequantize_scales(codes, bits_of_float32(grid)) - scales.float()).double().square()
        error = float((square if importance is None else square * importance).sum())
        candidates.append((error, codes, grid))
    _, codes, grid = min(candidates, key=lambda candidate: candidate[0])
    return codes, bits_of_float32(grid)


def scale_codes(scales: Tensor, range_bits: Tensor, bits: int) -> Tensor:
    """Rounds row scales to the grid of others (see `quantize_scales`): (rows,) uint8."""
    return _nearest_scale_codes(scales.float(), float32_of_bits(range_bits), bits)


def scale_error(scales: Tensor, bits: int) -> float:
    """Share of the rows' energy that rounding their scales to `bits` loses."""
    codes, grid = quantize_scales(scales, bits)
    lost = (dequantize_scales(codes, grid) - scales.float()).double().square().sum()
    return float(lost / scales.double().square().sum().clamp(min=torch.finfo(torch.float64).tiny))


def _subsample(values: Tensor, limit: int = 1 << 20) -> Tensor:
    return values[:: values.numel() // limit + 1]


def _nearest_scale_codes(scales: Tensor, grid: Tensor, bits: int) -> Tensor:
    step = grid[1].clamp(min=torch.finfo(torch.float32).tiny)
    codes = ((scales.clamp(min=torch.finfo(torch.float32).tiny).log2() - grid[0]) / step).round() + 1
    codes = codes.clamp(1, (1 << bits) - 1)
    return torch.where(scales > 0, codes, 0).to(torch.uint8)


def dequantize_scales(codes: Tensor, range_bits: Tensor) -> Tensor:
    """The float32 scales behind `quantize_scales`: 2 ** (lowest + step * (code - 1)), and 0 for code 0."""
    lowest, step = float32_of_bits(range_bits).unbind()
    # From a table of all codes: exp2 over the rows themselves rounds differently with a row's place in the tensor.
    levels = torch.exp2(lowest + step * torch.arange(-1, (1 << MAX_VALUE_BITS) - 1, device=codes.device))
    return torch.where(codes > 0, levels[codes.long()], 0.0)
