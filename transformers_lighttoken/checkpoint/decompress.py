"""decompress_checkpoint: from a compressed checkpoint to an ordinary dense one that loads without this package."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..coding.encode import Progress
from ..coding.plan import EXACT_DTYPES
from ..coding.table import CompressedTable
from ..progress import progress_bars
from .compressed import StoredTable, read_compressed
from .output import new_folder, refuse_inside
from .tensor_file import NewTensor
from .write import Change, write_checkpoint

_DTYPES = {**EXACT_DTYPES, "float64": torch.float64}


@dataclass(frozen=True)
class DenseTable:
    """A table that was decompressed.

    Attributes:
        keys: names in the files, more than one where the source stored tied weights again.
        shape: (num_embeddings, embedding_dim).
        dtype: for example "float16".
    """

    keys: tuple[str, ...]
    shape: tuple[int, int]
    dtype: str


def decompress_checkpoint(
    folder: str | os.PathLike[str], output: str | os.PathLike[str], progress: Progress | None = None
) -> dict[str, DenseTable]:
    """Writes the decoded tables back as dense tensors; every other tensor is copied byte for byte.

    A tied output head that was kept dense (tie_policy "dense") stays as it is: the files then hold two different
    tensors for what config.json calls tied, and transformers keeps them apart.

    Args:
        folder: a compressed checkpoint.
        output: the folder to make; must not exist, or be empty.
        progress: told of the bytes written; progress bars on standard error when None.

    Returns:
        The dense tables by module name.

    Raises:
        SourceError: if the folder holds no checkpoint compressed with LightToken.
        LightTokenCheckpointError: if it is damaged.
        OutputError: if the output is there already, or another run is writing it.
        OSError: if something cannot be written.
    """
    checkpoint = read_compressed(folder)
    refuse_inside(output, checkpoint.source.folder)
    change = Change()
    dense = {table.name: _restore(table, change) for table in checkpoint.tables}
    config: dict[str, Any] = {
        key: value for key, value in checkpoint.source.config.items() if key != "quantization_config"
    }
    with new_folder(output) as new, progress_bars(progress) as report:
        write_checkpoint(new, checkpoint.source, checkpoint.weights, change, config, report)
    return dense


def _restore(stored: StoredTable, change: Change) -> DenseTable:
    table = stored.load()
    dtype = _DTYPES[stored.source_dtype]
    change.removed |= stored.keys
    for key in stored.dense_keys:
        tensor = NewTensor(dtype, table.shape, _decoder(table, dtype))
        change.add(key, tensor, stored.tensors["exact_rows"].path.name)
    rows, dim = table.shape
    change.parameters += rows * dim - stored.plan.num_exact * dim
    return DenseTable(stored.dense_keys, table.shape, stored.source_dtype)


def _decoder(table: CompressedTable, dtype: torch.dtype) -> Callable[[], Iterator[Tensor]]:
    return lambda: (block.to(dtype) for block in table.decode_blocks())
