"""What makes one checkpoint another: a hash over its config, weights and tokenizer."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from .files import CONFIG, TORCH_WEIGHTS, TORCH_WEIGHTS_INDEX, WEIGHTS, WEIGHTS_INDEX
from .weights import read_index

# The `vocab_files_names` of transformers' tokenizers, those of its earlier versions, and of tokenizers in code of a
# repository's own.
_TOKENIZER = re.compile(
    r"[^/]*\.(model|spm|bpe|codes|tiktoken|tokenizer)|tokenizer[^/]*\.json|[^/]*vocab[^/]*\.(txt|json)|"
    r"(merges|dict)\.txt|"
    r"(added_tokens|special_tokens_map|normalizer|emoji|byte_maps|word_shape|word_pronunciation|tekken)\.json"
)


SAVED_TOKENIZER_FILES = frozenset({
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "spiece.model", "spm.model", "tokenizer.model", "sentencepiece.bpe.model",
    "source.spm", "target.spm",
})  # fmt: skip
"""What tokenizers of transformers save under names that hardly mean anything else."""


def decisive_files(names: Collection[str], folder: Path) -> list[str]:
    """The files that decide what a checkpoint computes: config, tokenizer, and the weights that transformers loads.

    Args:
        names: of the files.
        folder: where the index of shards lies, if there is one.

    Raises:
        LightTokenCheckpointError: if the index is damaged.
    """
    return sorted([CONFIG] * (CONFIG in names) + _loaded_weights(names, folder) + tokenizer_files(names))


def _loaded_weights(names: Collection[str], folder: Path) -> list[str]:
    """The weights in the order of `from_pretrained`: safetensors first, one file before shards."""
    for whole, index in ((WEIGHTS, WEIGHTS_INDEX), (TORCH_WEIGHTS, TORCH_WEIGHTS_INDEX)):
        if whole in names:
            return [whole]
        if index in names:
            shards = set(read_index(folder / index)["weight_map"].values())
            return [index, *(name for name in names if name in shards)]
    return []


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
    """The identity of the checkpoint in a folder, whose files are read for it: the same for a copy elsewhere.

    Raises:
        LightTokenCheckpointError: if the index of its shards is damaged.
    """
    names = [path.name for path in folder.iterdir() if path.is_file()]
    return identity_of({name: file_sha256(folder / name) for name in decisive_files(names, folder)})


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
