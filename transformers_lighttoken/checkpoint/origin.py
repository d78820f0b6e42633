"""What a compressed checkpoint was made from: recorded in it, and compared when a run is repeated."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from ..coding.table import digest_of
from ..config import LightTokenConfig
from .compressed import read_compressed
from .identity import file_sha256, identity_of
from .source import Source, find_commit, resolve_source

_SOURCE = ("source", "revision", "source_digest", "subfolder")


def source_facts(source: Source, subfolder: str = "") -> dict[str, Any]:
    """Which source it is: repository and commit, or for a folder the digest of every byte that the output depends on.

    Neither paths nor times of files enter, so that a copy of a folder is the same source.

    Args:
        source: the checkpoint; a folder is read whole, in the main memory's page cache at best.
        subfolder: in which the model lies.
    """
    if source.repo_id is None:
        hashes = {name: file_sha256(source.folder / name) for name in source.used_files()}
        facts = {"source_digest": f"sha256:{identity_of(hashes)}"}
    else:
        facts = {"source": source.repo_id, "revision": source.revision}
    return facts | ({"subfolder": subfolder} if subfolder else {})


def present_facts(source: str, revision: str | None, subfolder: str) -> dict[str, Any]:
    """The same of a source as it is now; nothing is downloaded.

    Raises:
        SourceError: if there is no such folder or repository.
        HubError: if the Hub cannot be asked, and there is no cached copy.
    """
    if Path(source).expanduser().exists():
        return source_facts(resolve_source(source, revision, subfolder), subfolder)
    facts = {"source": source, "revision": find_commit(source, revision, subfolder)}
    return facts | ({"subfolder": subfolder} if subfolder else {})


def origin_of(
    facts: Mapping[str, Any],
    device: torch.device,
    frequencies: Tensor | None,
    calibration: str | Sequence[str] | None,
) -> dict[str, Any]:
    """All that the tables are made from; of frequencies and text only the digest is kept.

    Args:
        facts: of the source.
        device: to compute on.
        frequencies: (V,) counts of the tokens.
        calibration: text.
    """
    origin = {
        **facts,
        "device": device.type,
        "frequencies": None if frequencies is None else digest_of({"frequencies": frequencies}),
        "calibration": None if calibration is None else digest_of_text(calibration),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    return {key: value for key, value in origin.items() if value is not None}


def digest_of_text(passages: str | Sequence[str]) -> str:
    """SHA-256 of a text, as "sha256:<hex>"."""
    text = passages if isinstance(passages, str) else "\n".join(passages)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def recorded_origin(output: str | os.PathLike[str], config: LightTokenConfig) -> Mapping[str, Any] | None:
    """What a folder was made from; None if it is no whole checkpoint that was compressed with these settings.

    Args:
        output: the folder.
        config: the settings.
    """
    try:
        made = read_compressed(output).config
    except (ValueError, OSError, RuntimeError):
        return None
    stored = made.to_dict()
    if any(stored.get(name) != value for name, value in config.to_dict().items()):
        return None
    return made.provenance or {}


def same_source(origin: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a recorded origin names the source that `source_facts` tells of."""
    return all(origin.get(key) == facts.get(key) for key in _SOURCE)
