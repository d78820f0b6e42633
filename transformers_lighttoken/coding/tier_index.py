"""Which rows are exact and which tiers cover a row, stored in few bytes. Beyond the paper.

Each row has a depth: 0 for rows of the base code alone, t for rows that the first t tiers cover too, and the largest
depth for exact rows. Rows are stored by falling depth, then by id, so one number per row (its storage position) tells
everything: no permutation is stored, only nested sets. Set t holds the rows of depth >= t, described inside set t - 1
either by runs (pairs of start and length, best where ids follow frequency) or by one bit per row, whichever is smaller.
"""

import numpy as np
import torch
from torch import Tensor

_RUNS, _BITMAP = 0, 1
_RUN_DTYPE = np.dtype("<u4")


def _runs(members: np.ndarray) -> np.ndarray:
    """(number of runs, 2) starts and lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], members.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    return np.stack([starts, ends - starts], axis=1)


def _encode_set(members: np.ndarray) -> bytes:
    runs = _runs(members)
    header = np.array([_RUNS], dtype=np.uint8).tobytes() + np.array([len(runs)], dtype=_RUN_DTYPE).tobytes()
    as_runs = header + runs.astype(_RUN_DTYPE).tobytes()
    as_bitmap = bytes([_BITMAP]) + np.packbits(members).tobytes()
    return min(as_runs, as_bitmap, key=len)


def encode_depths(depths: Tensor, max_depth: int) -> Tensor:
    """Encodes the depth of every row.

    Args:
        depths: (V,) integers in [0, max_depth].
        max_depth: number of nested sets, at least 0.

    Returns:
        uint8 bytes: for t = 1 .. max_depth one record describing the rows of depth >= t among those of depth >= t - 1.

    Raises:
        ValueError: if a depth is out of range.
    """
    values = depths.cpu().numpy()
    if values.size and not (0 <= values.min() and values.max() <= max_depth):
        raise ValueError(f"depths must be in [0, {max_depth}], got {values.min()} to {values.max()}.")
    records = b""
    for depth in range(1, max_depth + 1):
        records += _encode_set(values[values >= depth - 1] >= depth)
    return torch.frombuffer(bytearray(records), dtype=torch.uint8) if records else torch.zeros(0, dtype=torch.uint8)


def decode_depths(encoded: Tensor, num_rows: int, max_depth: int) -> Tensor:
    """Reads back the depths written by `encode_depths`.

    Returns:
        (num_rows,) int64 depths.

    Raises:
        ValueError: if the bytes do not describe `num_rows` rows.
    """
    data = encoded.cpu().numpy().tobytes()
    depths = np.zeros(num_rows, dtype=np.int64)
    parents = np.arange(num_rows)
    offset = 0
    for _ in range(max_depth):
        members, offset = _decode_set(data, offset, len(parents))
        parents = parents[members]
        depths[parents] += 1
    if offset != len(data):
        raise ValueError(f"tier_index has {len(data)} bytes, but its records end at byte {offset}: it is damaged.")
    return torch.from_numpy(depths)


def _decode_set(data: bytes, offset: int, parent_size: int) -> tuple[np.ndarray, int]:
    kind = data[offset] if offset < len(data) else None
    offset += 1
    if kind == _BITMAP:
        size = (parent_size + 7) // 8
        if offset + size > len(data):
            raise ValueError("tier_index ends inside a record: it is damaged.")
        bitmap = np.frombuffer(data, np.uint8, count=size, offset=offset)
        return np.unpackbits(bitmap, count=parent_size).astype(bool), offset + size
    if kind != _RUNS or offset + _RUN_DTYPE.itemsize > len(data):
        raise ValueError(f"tier_index has no valid record at byte {offset - 1}: it is damaged.")
    count = int(np.frombuffer(data, _RUN_DTYPE, count=1, offset=offset)[0])
    offset += _RUN_DTYPE.itemsize
    end = offset + 2 * count * _RUN_DTYPE.itemsize
    if end > len(data):
        raise ValueError("tier_index ends inside a record: it is damaged.")
    runs = np.frombuffer(data, _RUN_DTYPE, count=2 * count, offset=offset).reshape(-1, 2).astype(np.int64)
    if count and int((runs.sum(axis=1)).max()) > parent_size:
        raise ValueError(f"tier_index names a row past {parent_size}: it is damaged.")
    members = np.zeros(parent_size, dtype=bool)
    for start, length in runs:
        members[start : start + length] = True
    return members, end


def storage_order(depths: Tensor) -> Tensor:
    """Row ids in the order in which rows are stored: by falling depth, then by id. (V,) int64."""
    return torch.argsort(depths, descending=True, stable=True)


def storage_positions(depths: Tensor) -> Tensor:
    """Where each row is stored, the inverse of `storage_order`. (V,) int32."""
    order = storage_order(depths)
    positions = torch.empty(order.numel(), dtype=torch.int32, device=order.device)
    positions[order] = torch.arange(order.numel(), dtype=torch.int32, device=order.device)
    return positions


def max_encoded_bytes(num_rows: int, max_depth: int) -> int:
    """An upper bound of the size of the encoded depths: every set as a bitmap over all rows."""
    return max_depth * (1 + (num_rows + 7) // 8)
