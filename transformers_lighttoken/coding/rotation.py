"""A fixed rotation that costs no bytes: random signs and a block Hadamard transform. Beyond the paper.

Signs come from integer arithmetic (splitmix64), not from a library's generator, so that a stored table decodes the same
on every platform and version.
"""

import torch
from torch import Tensor

from .constants import constant, values_of_bytes

_MASK = (1 << 64) - 1
_NUM_ROUNDS = 2
_LARGEST_FACTOR = 16
_CPU = torch.device("cpu")

# Lloyd-Max levels of the unit Gaussian (Max 1960, Table I), positive half.
_POSITIVE_LEVELS = {
    1: (0.7978845608,),
    2: (0.4527800344, 1.5104176087),
    3: (0.2450941792, 0.7560052812, 1.3439092613, 2.1519457917),
    4: (0.1283950299, 0.3880482995, 0.6567589957, 0.9423402690, 1.2562311597, 1.6180463502, 2.0690172265, 2.7325896100),
}


def gaussian_levels(bits: int, device: torch.device = _CPU) -> Tensor:
    """Lloyd-Max levels of the unit Gaussian in rising order.

    Args:
        bits: bits per value, 1 to 4.
        device: of the result.

    Returns:
        (2**bits,) float32.
    """
    return constant(_levels, bits, device=device)


def levels_of_bytes(bits: int, device: torch.device = _CPU) -> Tensor:
    """The levels of all codes that a byte holds, the first one in its highest bits.

    Args:
        bits: bits per value: 1, 2 or 4.
        device: of the result.

    Returns:
        (256, 8 / bits) float32.
    """
    return constant(values_of_bytes, _levels(bits), device=device)


def _levels(bits: int) -> tuple[float, ...]:
    positive = _POSITIVE_LEVELS[bits]
    return (*(-level for level in reversed(positive)), *positive)


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def _signs(dim: int, seed: int, round_number: int) -> tuple[float, ...]:
    start = _splitmix64(seed ^ (round_number << 48))
    return tuple(1.0 if _splitmix64(start + column) & 1 else -1.0 for column in range(dim))


def _block_sizes(dim: int) -> list[int]:
    """Falling powers of two that add up to `dim`."""
    return [1 << bit for bit in range(dim.bit_length() - 1, -1, -1) if dim >> bit & 1]


def _hadamard_matrix(size: int) -> tuple[tuple[float, ...], ...]:
    """Orthonormal Walsh-Hadamard matrix in natural order, symmetric."""
    unit = size**-0.5
    return tuple(tuple(-unit if (i & j).bit_count() & 1 else unit for j in range(size)) for i in range(size))


def _hadamard(block: Tensor) -> Tensor:
    """Orthonormal Walsh-Hadamard transform of the last dimension, a power of two, as products with small factors."""
    size = block.shape[-1]
    inner = min(size, _LARGEST_FACTOR)
    factor = constant(_hadamard_matrix, inner, device=block.device).to(block.dtype)
    if size == inner:
        return block @ factor
    columns = (block.unflatten(-1, (size // inner, inner)) @ factor).transpose(-1, -2)  # (..., inner, size / inner)
    return _hadamard(columns).transpose(-1, -2).flatten(-2)


def _block_hadamard(rows: Tensor) -> Tensor:
    blocks = rows.split(_block_sizes(rows.shape[-1]), dim=-1)
    return torch.cat([_hadamard(block) for block in blocks], dim=-1)


def rotate(rows: Tensor, seed: int) -> Tensor:
    """Applies the rotation R: two rounds of signs, block Hadamard and reversal of the columns.

    Args:
        rows: (..., d) float32.
        seed: of the signs.

    Returns:
        (..., d), the same norms.
    """
    for round_number in range(_NUM_ROUNDS):
        signs = constant(_signs, rows.shape[-1], seed, round_number, device=rows.device)
        rows = _block_hadamard(rows * signs).flip(-1)
    return rows


def unrotate(rows: Tensor, seed: int) -> Tensor:
    """Undoes `rotate`."""
    for round_number in reversed(range(_NUM_ROUNDS)):
        signs = constant(_signs, rows.shape[-1], seed, round_number, device=rows.device)
        rows = _block_hadamard(rows.flip(-1)) * signs
    return rows
