"""What makes one checkpoint another: a hash over its config, weights and tokenizer."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
_TORCH_WEIGHTS = re.compile(r"(model|pytorch_model)[^/]*\.(safetensors|bin|json)")
_TOKENIZER = re.compile(
    r"tokenizer.*\.json|added_tokens\.json|special_tokens_map\.json|vocab\.(txt|json)|merges\.txt|[^/]*\.model"
)


def decisive_files(names: Iterable[str]) -> list[str]:
    """The files that decide what a checkpoint computes; weights in another form, beside those that load, do not."""
    names = sorted(names)
    own = [name for name in names if _WEIGHTS.fullmatch(name)]
    weights = own or [name for name in names if _TORCH_WEIGHTS.fullmatch(name)]
    return sorted(["config.json"] * ("config.json" in names) + weights + tokenizer_files(names))


def tokenizer_files(names: Iterable[str]) -> list[str]:
    """The files of a tokenizer, of those in the folder of a model."""
    return [name for name in names if _TOKENIZER.fullmatch(name)]


def identity_of(hashes: Mapping[str, str]) -> str:
    """The identity of a checkpoint.

    Args:
        hashes: SHA-256 in hexadecimal digits of each of its decisive files, by name.
    """
    lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def checkpoint_identity(folder: Path) -> str:
    """The identity of the checkpoint in a folder, whose files are read for it: the same for a copy elsewhere."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    return identity_of({name: file_sha256(folder / name) for name in decisive_files(names)})


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
