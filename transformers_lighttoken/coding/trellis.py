"""Trellis-coded quantization of rotated rows, a bit for each value or each pair (Marcellin and Fischer 1990).

Beyond the paper. The level of a value depends on its own bit and on the eight bits before it in its row's code (a
bit-shift trellis, as in QTIP, Tseng et al. 2024), so that a row chooses among far more sequences of levels than
independent values would: with a bit for each value it leaves 0.28 of a Gaussian's variance, where one-bit Lloyd-Max
quantization leaves 0.363 and no code less than 0.25; with a bit for each pair 0.53, where no code leaves less than 0.5.
A row starts after a byte of zeros. Since the memory is one byte, two bytes of code tell all values of the second, and
a row decodes by one look-up for each of its bytes.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from .packing import unpack_row_bytes
from .trellis_levels import HALF_OF_LEVELS

MEMORY_BITS = 8
LEVEL_UNIT = 1 / 32
_MEMORIES = 1 << MEMORY_BITS
_NUM_LEVELS = 2 * _MEMORIES
_CPU_ROWS_AT_ONCE = 64
_CUDA_ROWS_AT_ONCE = 2048
# Error in long rows, and the further error of the first values, by the values that share a bit. Part of the stored
# format, since tiers may take their scales from it.
_ERRORS = {1: (0.2785, 1.5), 2: (0.5315, 2.2)}


def trellis_bits(dim: int, width: int) -> int:
    """Bits of a row of `dim` values, `width` of which share a bit: ceil(dim / width)."""
    return -(-dim // width)


def trellis_error(dim: int, width: int) -> float:
    """Share of a Gaussian's variance that the code leaves in rows of `dim` values, `width` of which share a bit.

    Fitted to tests/benchmarks/trellis_levels.py: the first values of a row have fewer levels to choose from.
    """
    steady, start = _ERRORS[width]
    return min(1.0, steady + start / dim)


def encode_trellis(values: Tensor, width: int) -> Tensor:
    """The code of the least squared error, by the Viterbi algorithm.

    Args:
        values: (n, d) float32, about of unit variance.
        width: values that share a bit, 1 or 2.

    Returns:
        (n, ceil(d / width)) bool.
    """
    levels = trellis_levels(width, values.device)
    at_once = _CPU_ROWS_AT_ONCE if values.device.type == "cpu" else _CUDA_ROWS_AT_ONCE
    return torch.cat([viterbi(rows, levels) for rows in values.split(at_once)])


def viterbi(values: Tensor, levels: Tensor) -> Tensor:
    """The bits whose levels are nearest to some rows.

    Args:
        values: (n, d) float32.
        levels: (512, w) of each memory, most significant, and bit.

    Returns:
        (n, ceil(d / w)) bool.
    """
    rows, width = len(values), levels.shape[1]
    padded = functional.pad(values, (0, -values.shape[1] % width))
    steps = padded.t().contiguous().unflatten(0, (-1, width))  # (t, w, n)
    by_bit = levels.view(_MEMORIES, 2, width, 1)
    squares = by_bit.square().sum(dim=2)
    cost = values.new_full((_MEMORIES, 2, rows), torch.inf)
    cost[0] = squares[0] - 2 * (by_bit[0] * steps[0]).sum(dim=1)
    oldest = torch.empty(len(steps), _MEMORIES, rows, dtype=torch.bool, device=values.device)  # bits that left memory
    for number in range(1, len(steps)):
        zero, one = cost.view(2, _MEMORIES, rows)
        torch.lt(one, zero, out=oldest[number])
        cost = torch.minimum(zero, one).unsqueeze(1) + squares
        for place in range(width):
            cost.addcmul_(by_bit[:, :, place], steps[number, place], value=-2)
    window = cost.view(_NUM_LEVELS, rows).argmin(dim=0)  # (n,) the last memory and bit
    bits = torch.empty(len(steps), rows, dtype=torch.bool, device=values.device)
    for number in range(len(steps) - 1, -1, -1):
        bits[number] = window & 1
        memory = window >> 1
        window = oldest[number].gather(0, memory.unsqueeze(0)).squeeze(0).long() << MEMORY_BITS | memory
    return bits.t().contiguous()


def decode_trellis(codes: Tensor, slots: Tensor, dim: int, width: int) -> Tensor:
    """The levels of rows.

    Args:
        codes: uint8, packed rows of ceil(d / width) bits.
        slots: (n,) int64 rows.
        dim: values of a row, d.
        width: values that share a bit, 1 or 2.

    Returns:
        (n, d) float32.
    """
    row_bytes = unpack_row_bytes(codes, slots, trellis_bits(dim, width)).int()  # (n, bytes)
    windows = functional.pad(row_bytes, (1, 0))[:, :-1] << 8 | row_bytes
    if torch.compiler.is_compiling():  # few constants in the graph
        shifts = torch.arange(7, -1, -1, device=codes.device)
        places = windows.unsqueeze(2) >> shifts & (_NUM_LEVELS - 1)  # (n, bytes, 8)
        return _all_levels(width, codes.device)[places].flatten(1)[:, :dim]
    return functional.embedding(windows, _levels_of_windows(width, codes.device)).flatten(1)[:, :dim]


@lru_cache(maxsize=64)
def trellis_levels(width: int, device: torch.device) -> Tensor:
    """The levels of each memory followed by a bit, (512, width) float32; those of the inverted bits are opposite."""
    with torch.inference_mode(False):  # so that training can use it too
        return _all_levels(width, device)


def _all_levels(width: int, device: torch.device) -> Tensor:
    half = torch.tensor(HALF_OF_LEVELS[width], dtype=torch.float32, device=device).view(_MEMORIES, width) * LEVEL_UNIT
    return torch.cat([half, -half.flip(0)])


@lru_cache(maxsize=64)
def _levels_of_windows(width: int, device: torch.device) -> Tensor:
    """The levels of the bits in the second of every two bytes, (65536, 8 width) float32."""
    with torch.inference_mode(False):
        windows = torch.arange(1 << 16, device=device).unsqueeze(1)
        places = windows >> torch.arange(7, -1, -1, device=device) & (_NUM_LEVELS - 1)
        return _all_levels(width, device)[places].flatten(1)
