"""Trellis-coded quantization of rotated rows, a bit for each value or each pair (Marcellin and Fischer 1990).

Beyond the paper. The level of a value depends on its own bit and on the eight bits before it in its row's code (a
bit-shift trellis, as in QTIP, Tseng et al. 2024), so that a row chooses among far more sequences of levels than
independent values would: with a bit for each value it leaves 0.28 of a Gaussian's variance, where one-bit Lloyd-Max
quantization leaves 0.363 and no code less than 0.25; with a bit for each pair 0.53, where no code leaves less than 0.5.
A row's code bites its tail: its last eight bits come before its first, so that the first values have as many levels as
any (Ma and Wolf 1986); after a fixed byte their errors are larger, and grow from tier to tier. Codes of few bits start
after zeros all the same, since their ends would bind each other too much. Since the memory is one byte, two bytes of
code tell all values of the second, and a row decodes by one look-up for each of its bytes.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from .packing import numbers_of, unpack_row_bytes
from .trellis_levels import HALF_OF_LEVELS

MEMORY_BITS = 8
LEVEL_UNIT = 1 / 32
_MEMORIES = 1 << MEMORY_BITS
_NUM_LEVELS = 2 * _MEMORIES
_CPU_ROWS_AT_ONCE = 64
_CUDA_ROWS_AT_ONCE = 2048
# Bits on each side of the first one that decide what comes before it.
_STEPS_AROUND_START = 64
# Bits of the shortest code that bites its tail. Part of the stored format.
FEWEST_CLOSED_BITS = 24
# By the values that share a bit: the error in long rows; what it grows by where ends bind each other, which halves with
# every 11 bits; and what it grows by, over the number of values, where codes start after zeros. Part of the stored
# format, since tiers may take their scales from it.
_ERRORS = {1: 0.2785, 2: 0.532}
_BOUND_ERRORS = {1: 0.264, 2: 0.196}
_BITS_TO_HALVE = 11
_OPEN_ERRORS = {1: 1.5, 2: 2.2}
# What codes that start after zeros leave more for each tier before them, whose first values have the larger errors.
_OPEN_GROWTH = {1: 0.085, 2: 0.055}


def trellis_bits(dim: int, width: int) -> int:
    """Bits of a row of `dim` values, `width` of which share a bit: ceil(dim / width)."""
    return -(-dim // width)


def trellis_error(dim: int, width: int, tiers_before: int = 0) -> float:
    """Share of a Gaussian's variance that the code leaves in rows of `dim` values, `width` of which share a bit.

    Fitted to tests/benchmarks/trellis_levels.py: in short rows the ends bind each other, or the first values have fewer
    levels to choose from.

    Args:
        dim: d of the rows.
        width: values that share a bit, 1 or 2.
        tiers_before: tiers that coded the rows before with codes that start after zeros too.
    """
    bits = trellis_bits(dim, width)
    if bits < FEWEST_CLOSED_BITS:
        return min(1.0, _ERRORS[width] + _OPEN_ERRORS[width] / dim + _OPEN_GROWTH[width] * tiers_before)
    return round(_ERRORS[width] + _BOUND_ERRORS[width] * 2 ** (-bits / _BITS_TO_HALVE), 4)


def encode_trellis(values: Tensor, width: int) -> Tensor:
    """The code of about the least squared error, by the Viterbi algorithm: exact where codes start after zeros.

    Args:
        values: (n, d) float32, about of unit variance.
        width: values that share a bit, 1 or 2.

    Returns:
        (n, ceil(d / width)) bool.
    """
    levels = trellis_levels(width, values.device)
    at_once = _CPU_ROWS_AT_ONCE if values.device.type == "cpu" else _CUDA_ROWS_AT_ONCE
    return torch.cat([nearest_code(rows, levels) for rows in values.split(at_once)])


def nearest_code(values: Tensor, levels: Tensor) -> Tensor:
    """The bits whose levels are nearest to some rows, or about so: what a row starts with is found from its two ends.

    Args:
        values: (n, d) float32.
        levels: (512, w) of each memory, most significant, and bit.

    Returns:
        (n, ceil(d / w)) bool.
    """
    width = levels.shape[1]
    padded = functional.pad(values, (0, -values.shape[1] % width))
    steps = padded.t().contiguous().unflatten(0, (-1, width))  # (t, w, n)
    closed = len(steps) >= FEWEST_CLOSED_BITS
    start = _suitable_start(steps, levels) if closed else torch.zeros_like(steps[0, 0], dtype=torch.int64)
    search = _Search.over(steps, levels, start)
    return search.trace(search.best_ending_with(start) if closed else search.best()).t().contiguous()


def _suitable_start(steps: Tensor, levels: Tensor) -> Tensor:
    """The memory (n,) of the first bit, from values (t, w, n) on both sides of it where the rows' ends meet."""
    around = torch.arange(-_STEPS_AROUND_START, _STEPS_AROUND_START, device=steps.device) % len(steps)
    ends = _Search.over(steps[around], levels)
    before = slice(_STEPS_AROUND_START - MEMORY_BITS, _STEPS_AROUND_START)
    return numbers_of(ends.trace(ends.best())[before].t())


@dataclass(frozen=True)
class _Search:
    """The Viterbi algorithm, once it has seen all values of some rows.

    Attributes:
        cost: (256, 2, n) least error of the codes from the allowed starts to a memory and a bit, less what no code
            changes.
        oldest: (ceil(t / 8), 256, n) uint8, the bit that left the memory to make each memory; eight steps in a byte.
        num_steps: t.
    """

    cost: Tensor
    oldest: Tensor
    num_steps: int

    @classmethod
    def over(cls, steps: Tensor, levels: Tensor, start: Tensor | None = None) -> "_Search":
        """Goes over the values of rows.

        Args:
            steps: (t, w, n) values that share a bit.
            levels: (512, w).
            start: (n,) memory of the first bit; any when None.
        """
        count, width, rows = steps.shape
        by_bit = levels.view(_MEMORIES, 2, width, 1)
        squares = by_bit.square().sum(dim=2)
        cost = squares - 2 * (by_bit * steps[0]).sum(dim=2)
        if start is not None:
            allowed = start.view(1, 1, -1).expand(1, 2, -1)
            cost = torch.full_like(cost, torch.inf).scatter_(0, allowed, cost.gather(0, allowed))
        oldest = torch.zeros(-(-count // 8), _MEMORIES, rows, dtype=torch.uint8, device=steps.device)
        for number in range(1, count):
            zero, one = cost.view(2, _MEMORIES, rows)
            oldest[number >> 3] |= (one < zero).to(torch.uint8) << (number & 7)
            cost = torch.minimum(zero, one).unsqueeze(1) + squares
            for place in range(width):
                cost.addcmul_(by_bit[:, :, place], steps[number, place], value=-2)
        return cls(cost, oldest, count)

    def best(self) -> Tensor:
        """The last memory and bit of the nearest code, (n,) int64."""
        return self.cost.flatten(0, 1).argmin(dim=0)

    def best_ending_with(self, memory: Tensor) -> Tensor:
        """The same among codes whose last eight bits are the memory (n,) of each row."""
        zero, one = self.cost.view(2, _MEMORIES, -1).gather(1, memory.view(1, 1, -1).expand(2, 1, -1)).squeeze(1)
        return (one < zero).long() << MEMORY_BITS | memory

    def trace(self, window: Tensor) -> Tensor:
        """The bits (t, n) that led to a last memory and bit (n,)."""
        bits = torch.empty(self.num_steps, len(window), dtype=torch.bool, device=window.device)
        for number in range(self.num_steps - 1, -1, -1):
            bits[number] = window & 1
            memory = window >> 1
            left = self.oldest[number >> 3].gather(0, memory.unsqueeze(0)).squeeze(0) >> (number & 7) & 1
            window = left.long() << MEMORY_BITS | memory
        return bits


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
    bits = trellis_bits(dim, width)
    row_bytes = unpack_row_bytes(codes, slots, bits).int()  # (n, bytes)
    windows = torch.cat([_last_byte(row_bytes, bits), row_bytes[:, :-1]], dim=1) << 8 | row_bytes
    if torch.compiler.is_compiling():  # few constants in the graph
        shifts = torch.arange(7, -1, -1, device=codes.device)
        places = windows.unsqueeze(2) >> shifts & (_NUM_LEVELS - 1)  # (n, bytes, 8)
        return _all_levels(width, codes.device)[places].flatten(1)[:, :dim]
    return functional.embedding(windows, _levels_of_windows(width, codes.device)).flatten(1)[:, :dim]


def _last_byte(row_bytes: Tensor, bits: int) -> Tensor:
    """What comes before a code of some bits in whole bytes, (n, 1): its last eight, or zeros."""
    if bits < FEWEST_CLOSED_BITS:
        return torch.zeros_like(row_bytes[:, :1])
    unused = -bits % 8
    last = row_bytes[:, -1:]
    return (row_bytes[:, -2:-1] << 8 | last) >> unused & 0xFF if unused else last


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
