"""Writing a checkpoint that differs from another one in a few tensors and in its config.json."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..coding.encode import Progress
from .files import CONFIG, WEIGHTS_INDEX
from .source import Source
from .tensor_file import BytesWritten, TensorBytes, write_tensors
from .weights import Weights

_STEP = 1 << 20


@dataclass
class Change:
    """How a checkpoint's tensors change.

    Attributes:
        removed: names of tensors to leave out.
        added: tensors to add, by name.
        homes: the file of each added tensor, by its name.
        parameters: by how much the number of parameters changes, for the index of shards.
    """

    removed: set[str] = field(default_factory=set)
    added: dict[str, TensorBytes] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    parameters: int = 0

    def add(self, name: str, tensor: TensorBytes, home: str) -> None:
        """Adds a tensor to a file."""
        self.added[name] = tensor
        self.homes[name] = home


def write_checkpoint(
    folder: Path,
    source: Source,
    weights: Weights,
    change: Change,
    config: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:
    """Writes a checkpoint; every tensor that does not change is copied byte for byte, none is loaded.

    Args:
        folder: to write into, empty.
        source: the checkpoint that the other files come from.
        weights: of that checkpoint.
        change: to its tensors.
        config: of the new checkpoint.
        progress: told of the bytes written, in MiB.

    Raises:
        OSError: if something cannot be written.
    """
    written = _counter(progress, _bytes_to_write(weights, change))
    for name in weights.metadata:
        _write_file(folder / name, weights, change, written)
    if weights.index is not None:
        _write_json(folder / WEIGHTS_INDEX, _new_index(weights, change), sort_keys=True)
    for name in source.carried_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / name, folder / name)
    _write_json(folder / CONFIG, config)


def _write_file(path: Path, weights: Weights, change: Change, written: BytesWritten) -> None:
    held = dict(weights.of_file(path.name))
    kept: dict[str, TensorBytes] = {key: tensor for key, tensor in held.items() if key not in change.removed}
    added = {key: tensor for key, tensor in change.added.items() if change.homes[key] == path.name}
    if added or len(kept) < len(held):
        write_tensors(path, kept | added, weights.metadata[path.name], written)
    else:
        shutil.copyfile(next(iter(held.values())).path, path)
        written(sum(tensor.num_bytes for tensor in held.values()))


def _bytes_to_write(weights: Weights, change: Change) -> int:
    kept = sum(tensor.num_bytes for key, tensor in weights.tensors.items() if key not in change.removed)
    return kept + sum(tensor.num_bytes for tensor in change.added.values())


def _new_index(weights: Weights, change: Change) -> dict[str, Any]:
    index = dict(weights.index or {})
    kept = {key: name for key, name in index["weight_map"].items() if key not in change.removed}
    index["weight_map"] = kept | change.homes
    metadata = dict(index.get("metadata") or {})
    metadata["total_size"] = _bytes_to_write(weights, change)
    if "total_parameters" in metadata:
        metadata["total_parameters"] += change.parameters
    index["metadata"] = metadata
    return index


def _write_json(path: Path, content: Mapping[str, Any], sort_keys: bool = False) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=sort_keys, ensure_ascii=False) + "\n", encoding="utf-8")


def _counter(progress: Progress | None, total: int) -> BytesWritten:
    done = 0

    def written(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if progress and (done // _STEP > before // _STEP or done == total):
            progress("writing (MiB)", -(-done // _STEP), -(-total // _STEP))

    return written
