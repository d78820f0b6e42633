"""Bits to bytes and back: codes packed over the whole table, scalars kept as raw bits.

Everything stored is an integer tensor. Floating-point scalars (scales, ranges) are kept as the bits of their value
in an integer tensor of the same width, so that no `dtype=` or `.to()` cast of a model ever changes what was stored.
"""

from math import gcd

import torch
from torch import Tensor
from torch.nn import functional

MAX_VALUE_BITS = 8


def packed_bytes(num_rows: int, bits_per_row: int) -> int:
    """Size in bytes of `num_rows` rows of `bits_per_row` bits, packed without padding: ceil(rows * bits / 8)."""
    return (num_rows * bits_per_row + 7) // 8


def pack_bits(bits: Tensor) -> Tensor:
    """Packs a matrix of bits row after row, most significant bit first, with padding only at the very end.

    Args:
        bits: (rows, bits_per_row), bool or integer with values 0 and 1.

    Returns:
        uint8 tensor of `packed_bytes(rows, bits_per_row)` bytes.

    Raises:
        ValueError: if a value is neither 0 nor 1.
    """
    flat = bits.reshape(-1)
    if flat.dtype != torch.bool:
        if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) > 1):
            raise ValueError(f"bits must be 0 or 1, got values from {int(flat.min())} to {int(flat.max())}.")
        flat = flat.to(torch.bool)
    octets = functional.pad(flat, (0, -flat.numel() % 8)).view(torch.uint8).view(-1, 8)
    packed = torch.zeros(len(octets), dtype=torch.uint8, device=flat.device)
    for place in range(8):
        packed |= octets[:, place] << (7 - place)
    return packed


def signs_of(bits: Tensor) -> Tensor:
    """-1 and +1, float32, for bits, bool or integer, of any shape."""
    return bits.to(torch.float32, copy=True).mul_(2).sub_(1)


def unpack_row_bytes(packed: Tensor, rows: Tensor, bits_per_row: int) -> Tensor:
    """Reads whole rows of a packed matrix, each aligned to start at a byte.

    Args:
        packed: uint8 bytes made by `pack_bits`.
        rows: (n,) int64 row numbers.
        bits_per_row: the width that was packed.

    Returns:
        (n, ceil(bits_per_row / 8)) uint8; the unused low bits of the last byte are zero.
    """
    row_bytes = (bits_per_row + 7) // 8
    if bits_per_row % 8 == 0:
        return packed.view(-1, row_bytes).index_select(0, rows)
    start = rows * bits_per_row  # (n,) in bits
    positions = (start // 8).unsqueeze(1) + torch.arange(row_bytes + 1, device=rows.device)  # (n, row_bytes + 1)
    window = packed[positions.clamp_(max=packed.numel() - 1)].to(torch.int32)
    shift = (start % 8).to(torch.int32).unsqueeze(1)  # (n, 1)
    aligned = ((window[:, :-1] << shift) | (window[:, 1:] >> (8 - shift))) & 0xFF  # (n, row_bytes)
    tail_mask = torch.full((row_bytes,), 0xFF, dtype=torch.int32, device=rows.device)
    tail_mask[-1] = 0xFF & (0xFF << (-bits_per_row % 8))
    return (aligned & tail_mask).to(torch.uint8)


def align_rows(packed: Tensor, num_rows: int, bits_per_row: int) -> Tensor:
    """Reads all rows of a packed matrix, each aligned to start at a byte; faster than `unpack_row_bytes` for them all.

    Rows start at the same bit of a byte every 8 / gcd(bits_per_row, 8) rows, and are shifted together.

    Returns:
        (num_rows, ceil(bits_per_row / 8)) uint8; the unused low bits of the last byte are zero.
    """
    row_bytes = (bits_per_row + 7) // 8
    if bits_per_row % 8 == 0:
        return packed.view(num_rows, row_bytes)
    period = 8 // gcd(bits_per_row, 8)
    period_bytes = bits_per_row * period // 8
    padded = functional.pad(packed, (0, period_bytes + 1))
    aligned = packed.new_empty(num_rows, row_bytes)
    for phase in range(min(period, num_rows)):
        start, shift = divmod(phase * bits_per_row, 8)
        rows = aligned[phase::period]
        windows = padded[start:].unfold(0, row_bytes + 1, period_bytes)[: len(rows)]  # (rows, row_bytes + 1)
        rows.copy_(windows[:, :-1])
        if shift:
            rows.bitwise_left_shift_(shift).bitwise_or_(windows[:, 1:] >> (8 - shift))
    aligned[:, -1] &= 0xFF & (0xFF << (-bits_per_row % 8))
    return aligned


def unpack_rows(packed: Tensor, rows: Tensor, bits_per_row: int) -> Tensor:
    """Reads the bits of some rows of a packed matrix.

    Args:
        packed: uint8 bytes made by `pack_bits`.
        rows: (n,) int64 row numbers.
        bits_per_row: the width that was packed.

    Returns:
        (n, bits_per_row) uint8 of zeros and ones.
    """
    row_bytes = unpack_row_bytes(packed, rows, bits_per_row)
    shifts = torch.arange(7, -1, -1, device=rows.device, dtype=torch.uint8)
    bits = (row_bytes.unsqueeze(2) >> shifts) & 1  # (n, row_bytes, 8)
    return bits.flatten(1)[:, :bits_per_row]


def _check_value_bits(value_bits: int) -> None:
    if not 1 <= value_bits <= MAX_VALUE_BITS:
        raise ValueError(f"value_bits must be in [1, {MAX_VALUE_BITS}], got {value_bits}.")


def bits_of(numbers: Tensor, width: int) -> Tensor:
    """The lowest `width` bits of integers of any shape (...), the most significant first: (..., width), same dtype."""
    shifts = torch.arange(width - 1, -1, -1, device=numbers.device, dtype=numbers.dtype)
    return (numbers.unsqueeze(-1) >> shifts) & 1


def numbers_of(bits: Tensor) -> Tensor:
    """The integers, (...) int64, of bits (..., width), the most significant first."""
    return (bits * (1 << torch.arange(bits.shape[-1] - 1, -1, -1, device=bits.device))).sum(dim=-1)


def pack_values(values: Tensor, value_bits: int) -> Tensor:
    """Packs a matrix of small unsigned integers, `value_bits` each, most significant bit first.

    Args:
        values: (rows, columns) integers in [0, 2**value_bits).
        value_bits: width of one value, 1 to 8.

    Returns:
        uint8 tensor of `packed_bytes(rows, columns * value_bits)` bytes.

    Raises:
        ValueError: if `value_bits` or a value is out of range.
    """
    _check_value_bits(value_bits)
    if values.numel() and (int(values.min()) < 0 or int(values.max()) >= 1 << value_bits):
        raise ValueError(
            f"values must be in [0, {(1 << value_bits) - 1}] for {value_bits} bits, got values from "
            f"{int(values.min())} to {int(values.max())}."
        )
    if value_bits == MAX_VALUE_BITS:
        return values.to(torch.uint8).reshape(-1)
    return pack_bits(bits_of(values.to(torch.uint8), value_bits).flatten(1))


def unpack_values(packed: Tensor, rows: Tensor, columns: int, value_bits: int) -> Tensor:
    """Reads the small integers of some rows packed by `pack_values`.

    Returns:
        (n, columns) int64 in [0, 2**value_bits).
    """
    _check_value_bits(value_bits)
    if value_bits == MAX_VALUE_BITS:
        return packed.view(-1, columns).index_select(0, rows).long()
    return numbers_of(unpack_rows(packed, rows, columns * value_bits).view(-1, columns, value_bits))


def join_rows(first: Tensor, second: Tensor, rows: tuple[int, int], bits_per_row: int) -> Tensor:
    """Packs the rows of two packed matrices one after the other.

    Args:
        first: uint8 bytes of the first rows.
        second: of those after them.
        rows: of both.
        bits_per_row: their width.
    """
    if rows[0] * bits_per_row % 8 == 0:
        return torch.cat([first, second])
    parts = [
        unpack_rows(packed, torch.arange(count, device=packed.device), bits_per_row)
        for packed, count in zip((first, second), rows, strict=True)
    ]
    return pack_bits(torch.cat(parts).bool())


def bits_of_bfloat16(values: Tensor) -> Tensor:
    """Rounds to bfloat16 and keeps the bits in an int16 tensor of the same shape."""
    return values.to(torch.bfloat16).contiguous().view(torch.int16)


def bfloat16_of_bits(bits: Tensor) -> Tensor:
    """The float32 values behind `bits_of_bfloat16`."""
    return bits.view(torch.bfloat16).float()


def bits_of_float32(values: Tensor) -> Tensor:
    """Keeps the bits of float32 values in an int32 tensor of the same shape."""
    return values.float().contiguous().view(torch.int32)


def float32_of_bits(bits: Tensor) -> Tensor:
    """The float32 values behind `bits_of_float32`."""
    return bits.view(torch.float32)
