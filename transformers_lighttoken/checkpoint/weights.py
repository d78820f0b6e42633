"""The weights of a checkpoint: one safetensors file, or shards and their index."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.modeling_utils import load_state_dict

from ..modeling.errors import LightTokenCheckpointError
from .files import TORCH_WEIGHTS, TORCH_WEIGHTS_INDEX, WEIGHTS, WEIGHTS_INDEX
from .tensor_file import NewTensor, StoredTensor, read_tensors, write_tensors


@dataclass(frozen=True)
class Weights:
    """All tensors of a checkpoint, none of them read yet.

    Attributes:
        tensors: by name.
        metadata: of each file's header, by file name, in the order of the shards.
        index: the shards' index as it is written; None for a single file.
    """

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, dict[str, str]]
    index: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    def of_file(self, name: str) -> Iterator[tuple[str, StoredTensor]]:
        """The tensors of one file, with their names."""
        return ((key, tensor) for key, tensor in self.tensors.items() if tensor.path.name == name)


def read_weights(folder: Path) -> Weights:
    """Reads the headers of a folder's safetensors files; a single file goes before shards, as in transformers.

    Raises:
        LightTokenCheckpointError: if a file is missing or damaged.
    """
    index = None
    names = [WEIGHTS]
    _check_format(folder)
    if not (folder / WEIGHTS).is_file():
        index = read_index(folder / WEIGHTS_INDEX)
        names = sorted(set(index["weight_map"].values()))
        _check_present(folder, names, WEIGHTS_INDEX)
    tensors: dict[str, StoredTensor] = {}
    metadata = {}
    for name in names:
        held, metadata[name] = read_tensors(folder / name)
        tensors |= held
    absent = sorted(set(index["weight_map"]) - set(tensors)) if index else []
    if absent:
        raise LightTokenCheckpointError(
            f"{folder / WEIGHTS_INDEX} names tensors that its files do not hold: {absent[:5]}. Download it again."
        )
    return Weights(tensors, metadata, index)


def _check_format(folder: Path) -> None:
    if (folder / WEIGHTS).is_file() or (folder / WEIGHTS_INDEX).is_file():
        return
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    hint = "save the model in this format, without variant=, or rename the files" if others else "download it again"
    raise LightTokenCheckpointError(
        f"{folder} holds neither {WEIGHTS} nor {WEIGHTS_INDEX}{f', but {others[:5]}' if others else ''}: {hint}."
    )


def convert_weights(folder: Path, into: Path) -> None:
    """Writes the tensors of PyTorch's own files (.bin) as safetensors, byte for byte; no code in them is run.

    Args:
        folder: holds pytorch_model.bin, or its shards and index.
        into: gets the safetensors files; made anew.

    Raises:
        LightTokenCheckpointError: if a file is missing, or holds something other than a state dict.
    """
    into.mkdir()
    if (folder / TORCH_WEIGHTS).is_file():
        _convert_file(folder / TORCH_WEIGHTS, into / WEIGHTS)
        return
    index = read_index(folder / TORCH_WEIGHTS_INDEX)
    renamed = {
        name: name.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"
        for name in sorted(set(index["weight_map"].values()))
    }
    _check_present(folder, list(renamed), TORCH_WEIGHTS_INDEX)
    for old, new in renamed.items():
        _convert_file(folder / old, into / new)
    index["weight_map"] = {key: renamed[name] for key, name in index["weight_map"].items()}
    (into / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _convert_file(path: Path, into: Path) -> None:
    try:
        state = load_state_dict(path)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise LightTokenCheckpointError(f"{path} cannot be read as a state dict: {reason}") from error
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise LightTokenCheckpointError(f"{path} holds more than tensors ({other[:3]}): no state dict.")
    write_tensors(into, {key: NewTensor.of(tensor) for key, tensor in state.items()}, {"format": "pt"})


def read_index(path: Path) -> dict[str, Any]:
    """Reads the index of shards.

    Raises:
        LightTokenCheckpointError: if it is damaged.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(index["weight_map"], dict):
            raise TypeError("weight_map is no object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LightTokenCheckpointError(f"{path} is no index of shards: {error}. Download it again.") from error
    return index


def _check_present(folder: Path, names: list[str], index: str) -> None:
    absent = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if absent:
        raise LightTokenCheckpointError(f"{folder / index} names {absent}, which are not there. Download it again.")
