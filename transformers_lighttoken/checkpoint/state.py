"""State files: what a killed run has finished, kept beside the output until it is complete."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..coding.journal import Finished
from ..coding.table import digest_of
from ..distributed import Processes
from .output import OutputError, has_state

_SETTINGS = "settings.json"
_FACTS = "facts"


class SettingsError(OutputError):
    """A stopped run with other settings lies where a run is to go on."""


def open_state(folder: Path, settings: Mapping[str, Any], restart: bool) -> bool:
    """Prepares the folder of state files.

    Args:
        folder: beside the output.
        settings: everything that the result depends on; plain JSON values.
        restart: whether to forget what an earlier run has finished.

    Returns:
        Whether there is an earlier run to go on with.

    Raises:
        SettingsError: if it had other settings.
    """
    path = folder / _SETTINGS
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    content = json.dumps(settings, indent=2, sort_keys=True)
    earlier = _read_settings(path)
    if earlier is not None and has_state(folder):
        now = json.loads(content)
        changed = [key for key in sorted(now.keys() | earlier.keys()) if now.get(key) != earlier.get(key)]
        if changed:
            told = "; ".join(_difference(key, earlier.get(key), now.get(key)) for key in changed)
            raise SettingsError(
                f"{folder.parent} holds a stopped run with other settings ({told}): go on with those, or start afresh "
                "(restart=True, --restart)."
            )
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write(path, content.encode())
    return False


def remove_state(folder: Path) -> None:
    """Removes the state files of a complete run, with the folder that they lie in beside the output."""
    if folder.is_dir():
        shutil.rmtree(folder.parent, ignore_errors=True)


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts that `write_state` wrote; None where there are none, or they are damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()[_FACTS])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return (tensors, facts) if facts.pop("digest", None) == digest_of(tensors) else None


def write_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes tensors and facts, all or nothing, even if the run is killed meanwhile.

    Raises:
        OSError: if it cannot be written.
    """
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {_FACTS: json.dumps({**facts, "digest": digest_of(cpu)})}
    _write(path, save(cpu, metadata))


@dataclass(frozen=True)
class StateFiles:
    """The `Journal` of a table: every process keeps the last two steps of each stage.

    Processes are never more than one step apart, because each step ends with an exchange; so the last step that all
    have finished is among them.

    Attributes:
        folder: of the state files.
        table: number of the table.
        processes: that code it.
    """

    folder: Path
    table: int
    processes: Processes

    def load(self, stage: str) -> Finished | None:
        """The last step that all processes have finished, or None."""
        found = {}
        for parity in (0, 1):
            state = read_state(self._path(stage, parity))
            if state is not None:
                found[int(state[1]["step"])] = state[0]
        steps = torch.tensor([*sorted(found), -1, -1][:2])
        everywhere = [set(other.tolist()) - {-1} for other in self.processes.gather(steps)]
        common = set.intersection(*everywhere)
        return Finished(max(common), found[max(common)]) if common else None

    def save(self, stage: str, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Remembers this process's part of a step.

        Raises:
            OSError: if it cannot be written.
            ProcessError: if another process cannot write its own.
        """
        with self.processes.agreed():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_state(self._path(stage, step % 2), tensors, {"step": step})

    def _path(self, stage: str, parity: int) -> Path:
        name = f"table{self.table}-{stage}-process{self.processes.index}-{parity}.safetensors"
        return self.folder / name


def _read_settings(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _difference(key: str, before: Any, now: Any) -> str:
    if key == "source_digest" and before and now:
        return "the files of the source have changed"
    return f"{key} was {_short(before)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
