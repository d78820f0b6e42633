"""Where a checkpoint comes from: a folder, or a repository on the Hub."""

import glob
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelInfo, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..config import QUANT_METHOD
from ..hub.errors import HubError, call_hub
from .files import (
    CONFIG,
    TORCH_WEIGHTS,
    TORCH_WEIGHTS_INDEX,
    WEIGHTS,
    WEIGHTS_INDEX,
    files_beside_weights,
    list_files,
)

_DOWNLOAD = "download the model"
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(safetensors|bin)")


class SourceError(ValueError):
    """There is no usable checkpoint where one was looked for; the message says what was found, and the remedy."""


@dataclass(frozen=True)
class Source:
    """A checkpoint on disk.

    Attributes:
        folder: where its files lie.
        config: config.json as it is written.
        repo_id: the repository that it was downloaded from, or None.
        revision: the commit there, or None.
    """

    folder: Path
    config: dict[str, Any]
    repo_id: str | None = None
    revision: str | None = None

    def carried_files(self) -> list[str]:
        """Relative paths of the files that come along with the weights."""
        return files_beside_weights(list_files(self.folder))

    def used_files(self) -> list[str]:
        """Relative paths of all files that a compressed checkpoint is made from."""
        return _used_files(list_files(self.folder))


def resolve_source(source: str | os.PathLike[str], revision: str | None = None, subfolder: str = "") -> Source:
    """Finds a checkpoint, and downloads it where it is on the Hub: no weights but safetensors where it has them.

    Args:
        source: a folder, or a repository on the Hub (`namespace/name`).
        revision: branch, tag or commit there.
        subfolder: of the folder or repository, where the model lies.

    Raises:
        SourceError: if there is no such folder or repository, or no transformers model in it.
        HubError: if the Hub, or the connection to it, fails.
    """
    folder = Path(source).expanduser()
    if folder.exists():
        if revision is not None:
            raise SourceError(f"revision {revision!r} is for repositories on the Hub, but {source} is a folder.")
        repo_id = commit = None
    else:
        repo_id = str(source)
        _check_name(repo_id)
        folder = _download(repo_id, revision, subfolder)
        commit = folder.name
    if not folder.is_dir():
        raise SourceError(f"{source} is a file: give the folder that holds config.json and the weights.")
    folder = folder / subfolder
    if not folder.is_dir():
        raise SourceError(f"{source} has no subfolder {subfolder!r}.")
    _check_model_files(_top(list_files(folder)), str(source))
    return Source(folder, read_config(folder), repo_id, commit)


def find_commit(repo_id: str, revision: str | None = None, subfolder: str = "") -> str | None:
    """The commit that a revision of a repository is now; nothing is downloaded.

    Raises:
        SourceError: if it is no name of a repository.
        HubError: if the Hub fails, and there is no cached copy.
    """
    _check_name(repo_id)
    info = _ask_hub(repo_id, revision, f"{subfolder.strip('/')}/" if subfolder else "")
    return info.name if isinstance(info, Path) else info.sha


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json.

    Raises:
        SourceError: if there is none, or it is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise SourceError(f"{folder} has no {CONFIG}: {_found(_top(list_files(folder)))}.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is no JSON: {error}.") from error
    if not isinstance(config, dict):
        raise SourceError(f"{path} holds no JSON object, but {type(config).__name__}.")
    return config


def refuse_quantized(source: Source) -> None:
    """Refuses a checkpoint that is quantized already.

    Raises:
        SourceError: naming its method.
    """
    quantization = source.config.get("quantization_config") or source.config.get("compression_config")
    if not quantization:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method == QUANT_METHOD:
        raise SourceError(
            "the source is compressed with LightToken already: compress the original, or `lighttoken decompress` it."
        )
    raise SourceError(
        f"the source is quantized already (quant_method {method!r}): LightToken compresses the tables of checkpoints "
        "in fp32, fp16 or bf16. Give the original."
    )


def _check_name(source: str) -> None:
    with suppress(HFValidationError):
        validate_repo_id(source)
        if not source.startswith((".", "~")):
            return
    raise SourceError(f"there is no folder {source!r}, and it is no name of a repository on the Hub either.")


def _download(repo_id: str, revision: str | None, subfolder: str) -> Path:
    """The folder of a commit in the cache, named after it, with the files that are needed."""
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    info = _ask_hub(repo_id, revision, prefix)
    if isinstance(info, Path):
        return info
    all_names = [sibling.rfilename for sibling in info.siblings or []]
    names = [name.removeprefix(prefix) for name in all_names if name.startswith(prefix)]
    if not names:
        raise SourceError(f"{repo_id} has no subfolder {subfolder!r}.")
    _check_model_files(_top(names), repo_id)
    patterns = [glob.escape(prefix + name) for name in _used_files(names)]
    download = partial(snapshot_download, repo_id, revision=revision, allow_patterns=patterns)
    return Path(call_hub(_DOWNLOAD, repo_id, download))


def _ask_hub(repo_id: str, revision: str | None, prefix: str) -> ModelInfo | Path:
    """What the Hub knows of a revision, or where it does not answer the folder of that commit in the cache."""
    try:
        return call_hub(_DOWNLOAD, repo_id, lambda: HfApi().model_info(repo_id, revision=revision))
    except HubError as error:
        cached = None if error.status else _cached(repo_id, revision, prefix)
        if cached is None:
            raise _with_folder_hint(error, repo_id) from None
        return cached


def _cached(repo_id: str, revision: str | None, prefix: str) -> Path | None:
    """The folder of the commit in the cache, if an earlier run has downloaded it."""
    name = prefix + CONFIG
    found = try_to_load_from_cache(repo_id, name, revision=revision)
    return Path(found).parents[name.count("/")] if isinstance(found, str) else None


def _with_folder_hint(error: HubError, repo_id: str) -> HubError:
    hint = f" There is no folder {repo_id!r} either." if "no such repository" in str(error) else ""
    return HubError(f"{error}{hint}", status=error.status, request_id=error.request_id)


def _used_files(names: list[str]) -> list[str]:
    return [CONFIG, *_weight_files(names), *files_beside_weights(names)]


def _weight_files(names: list[str]) -> list[str]:
    """The files that make up the weights, safetensors before PyTorch's own."""
    top = _top(names)
    for whole, index, ending in ((WEIGHTS, WEIGHTS_INDEX, "safetensors"), (TORCH_WEIGHTS, TORCH_WEIGHTS_INDEX, "bin")):
        if whole in top:
            return [whole]
        if index in top:
            return [index, *(name for name in top if (match := _SHARD.fullmatch(name)) and match.group(2) == ending)]
    return []


def _check_model_files(top: list[str], shown: str) -> None:
    if CONFIG not in top:
        if "adapter_config.json" in top:
            remedy = "it is an adapter. Merge it into its model (merge_and_unload) and save that"
        elif "model_index.json" in top:
            remedy = "it is a pipeline of several models. Name one of them as the subfolder"
        else:
            remedy = "give the folder, or repository and subfolder, of a transformers model"
        raise SourceError(f"{shown} has no {CONFIG}: {_found(top)}; {remedy}.")
    if not _weight_files(top):
        weights = [name for name in top if Path(name).suffix not in (".json", ".txt", ".md")]
        raise SourceError(
            f"{shown} has no {WEIGHTS}, {WEIGHTS_INDEX} or {TORCH_WEIGHTS}: {_found(weights)}. Load it with "
            "transformers (gguf_file= or variant= where that applies), and save it with save_pretrained first."
        )


def _top(names: list[str]) -> list[str]:
    return [name for name in names if "/" not in name]


def _found(names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"it holds {shown}" if names else "it holds nothing else"
