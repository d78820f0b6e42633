"""Checkpoints on disk for tests: how to make small ones, and what is in them."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertTokenizer, PreTrainedModel

from tests.tiny_models import ARCHITECTURES, VOCAB
from transformers_lighttoken import LightTokenConfig

SMALL = LightTokenConfig(code_bits=8)


def save_dense(folder: Path, architecture: str = "bert", **options: Any) -> PreTrainedModel:
    """Saves a tiny random model; `options` are of `save_pretrained`."""
    model = ARCHITECTURES[architecture].build()
    model.save_pretrained(folder, **options)
    return model


def add_tokenizer(folder: Path) -> None:
    """A WordPiece tokenizer with VOCAB tokens, four of them special."""
    tokens = ["[unused0]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [f"word{number}" for number in range(VOCAB - len(tokens))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def raw_tensors(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, bytes], dict[str, str]]:
    """Header, bytes and metadata of a safetensors file, read by hand."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    data = content[8 + length :]
    return header, {name: data[slice(*entry["data_offsets"])] for name, entry in header.items()}, metadata


def tensor_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of dtype, shape and bytes of every tensor in a folder's safetensors files."""
    digests = {}
    for path in sorted(folder.glob("*.safetensors")):
        header, data, _ = raw_tensors(path)
        for name, entry in header.items():
            described = f"{entry['dtype']} {entry['shape']} ".encode()
            assert name not in digests, f"{name} is stored in two files"
            digests[name] = hashlib.sha256(described + data[name]).hexdigest()
    return digests


def tensor_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every tensor in a folder's safetensors files."""
    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        sizes |= {name: len(data) for name, data in raw_tensors(path)[1].items()}
    return sizes


def file_contents(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file in a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_json(path: Path) -> Any:
    """A JSON file's content."""
    return json.loads(path.read_text())


def write_config(folder: Path, **fields: Any) -> None:
    """Changes fields of config.json; None removes one."""
    config = {**read_json(folder / "config.json"), **fields}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def as_float32(data: bytes, shape: list[int]) -> np.ndarray:
    """A stored float32 tensor."""
    return np.frombuffer(data, dtype="<f4").reshape(shape)
