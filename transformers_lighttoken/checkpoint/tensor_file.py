"""Reading and writing safetensors files as streams of bytes: a tensor that is only copied is never a tensor."""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..modeling.errors import LightTokenCheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The order in which safetensors stores dtypes, the widest first so that every tensor is aligned.
_STORED_ORDER = (
    "U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16",
    "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "F6_E3M2", "F6_E2M3", "F4", "BOOL",
)  # fmt: skip
_CHUNK = 1 << 23  # bytes read and written at once
_ALIGNMENT = 8

BytesWritten = Callable[[int], None]


class TensorBytes(Protocol):
    """A tensor to be written: its dtype by safetensors' name, its shape, and its bytes piece by piece."""

    @property
    def dtype(self) -> str: ...  # noqa: D102

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def num_bytes(self) -> int: ...  # noqa: D102

    def chunks(self) -> Iterator[bytes | memoryview]: ...  # noqa: D102


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, not read yet.

    Attributes:
        path: the file.
        key: its name there.
        dtype: by safetensors' name.
        shape: its shape.
        start: first byte in the file.
        num_bytes: its size.
    """

    path: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, a few MiB at a time.

        Raises:
            LightTokenCheckpointError: if the file has become shorter.
        """
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.num_bytes
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise LightTokenCheckpointError(f"{self.path} ends inside {self.key!r}: it is truncated.")
                left -= len(chunk)
                yield chunk

    def load(self) -> Tensor:
        """Reads it."""
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(self.key)

    def same_bytes(self, other: "StoredTensor") -> bool:
        """Whether another tensor has the same dtype, shape and bytes."""
        if (self.dtype, self.shape, self.num_bytes) != (other.dtype, other.shape, other.num_bytes):
            return False
        return all(mine == theirs for mine, theirs in zip(self.chunks(), other.chunks(), strict=True))


@dataclass(frozen=True)
class NewTensor:
    """A tensor that is made while it is written.

    Attributes:
        torch_dtype: of the blocks.
        shape: of all blocks together.
        blocks: makes the blocks, which follow each other in memory.
    """

    torch_dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[Tensor]]

    @classmethod
    def of(cls, tensor: Tensor) -> "NewTensor":
        """A tensor that is there already."""
        return cls(tensor.dtype, tuple(tensor.shape), lambda: [tensor])

    @property
    def dtype(self) -> str:
        """The dtype by safetensors' name."""
        return _NAMES[self.torch_dtype]

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return prod(self.shape) * self.torch_dtype.itemsize

    def chunks(self) -> Iterator[memoryview]:
        """The bytes of one block after the other."""
        for block in self.blocks():
            flat = block.detach().cpu().contiguous().reshape(-1)
            if flat.numel():
                yield flat.view(torch.uint8).numpy().data


def read_tensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """What a safetensors file holds.

    Returns:
        Its tensors by name, and the metadata of its header.

    Raises:
        LightTokenCheckpointError: if the file is truncated or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt"):  # checks header, offsets and length
            pass
    except (SafetensorError, OSError) as error:
        raise LightTokenCheckpointError(f"{path} cannot be read: {error}. Download it again.") from error
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
    metadata = header.pop("__metadata__", {})
    data = 8 + header_bytes
    tensors = {}
    for key, entry in header.items():
        start, end = entry["data_offsets"]
        tensors[key] = StoredTensor(path, key, entry["dtype"], tuple(entry["shape"]), data + start, end - start)
    return tensors, metadata


def write_tensors(
    path: Path,
    tensors: Mapping[str, TensorBytes],
    metadata: Mapping[str, str],
    written: BytesWritten | None = None,
) -> None:
    """Writes a safetensors file, one piece after the other; laid out as safetensors does.

    Args:
        path: the file.
        tensors: by name.
        metadata: of the header.
        written: told of each piece's bytes.

    Raises:
        OSError: if it cannot be written.
    """
    names = sorted(tensors, key=lambda name: (_order(tensors[name].dtype), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].num_bytes
        header[name] = {"dtype": tensors[name].dtype, "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in names:
            for chunk in tensors[name].chunks():
                file.write(chunk)
                if written:
                    written(len(chunk))


def _order(dtype: str) -> int:
    return _STORED_ORDER.index(dtype) if dtype in _STORED_ORDER else len(_STORED_ORDER)
