"""Rows of a table in a safetensors file, read as they are needed."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..modeling.errors import LightTokenCheckpointError
from .tensor_file import DTYPES, StoredTensor

_READ_BYTES = 1 << 22
_SKIPPED_BYTES = 1 << 16  # a gap between wanted rows that is cheaper to read than to seek over


@dataclass(frozen=True)
class StoredRows:
    """A table on disk (see `coding.table_rows`).

    Attributes:
        tensor: the stored table.
        device: where rows are computed on.
    """

    tensor: StoredTensor
    device: torch.device

    @property
    def shape(self) -> tuple[int, int]:
        """(num_embeddings, embedding_dim)."""
        return self.tensor.shape[0], self.tensor.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return DTYPES[self.tensor.dtype]

    @property
    def in_memory(self) -> bool:
        """Rows of a file are not."""
        return False

    def read(self, ids: Tensor) -> Tensor:
        """Some rows, (n, d), on the device.

        Args:
            ids: (n,) int64, in any order.

        Raises:
            LightTokenCheckpointError: if the file has become shorter.
        """
        wanted = ids.cpu().numpy()
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        row_bytes = self.shape[1] * self.dtype.itemsize
        content = np.empty((len(wanted), row_bytes), dtype=np.uint8)
        with self.tensor.path.open("rb") as file:
            for first, last in _runs(ordered, row_bytes):
                start, count = int(ordered[first]), int(ordered[last - 1] - ordered[first]) + 1
                file.seek(self.tensor.start + start * row_bytes)
                data = file.read(count * row_bytes)
                if len(data) < count * row_bytes:
                    raise LightTokenCheckpointError(
                        f"{self.tensor.path} ends inside {self.tensor.key!r}: it is truncated."
                    )
                rows = np.frombuffer(data, dtype=np.uint8).reshape(count, row_bytes)
                content[order[first:last]] = rows[ordered[first:last] - start]
        flat = torch.from_numpy(content.reshape(-1)).view(self.dtype)
        return flat.view(len(wanted), self.shape[1]).to(self.device)


def _runs(ordered: np.ndarray, row_bytes: int) -> list[tuple[int, int]]:
    """Places (first, last + 1) of rows to read at once: near each other, and not too many."""
    most = max(1, _READ_BYTES // row_bytes)
    near = max(1, _SKIPPED_BYTES // row_bytes)
    runs, first = [], 0
    breaks = np.append(np.flatnonzero(np.diff(ordered) > near) + 1, len(ordered))
    for last in breaks.tolist():
        while first < last:
            end = min(last, int(np.searchsorted(ordered, ordered[first] + most)))
            runs.append((first, end))
            first = end
    return runs
