"""compress_checkpoint: from a dense checkpoint on disk to a compressed one."""

import copy
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from ..coding.encode import Progress
from ..coding.table import CompressedTable
from ..config import FORMAT_VERSION, LightTokenConfig
from ..distributed import Processes
from ..modeling.checkpoint import checkpoint_digest
from ..modeling.embedding import SENTINEL
from ..modeling.fitting import FittingContext, tokenizer_of
from ..progress import progress_bars
from ..report import CompressionReport, compression_report
from ..version import __version__
from .carried import CARRIED, carried_digest
from .code_table import TableCoder
from .files import WEIGHTS, WEIGHTS_INDEX
from .origin import origin_of, recorded_origin, source_facts
from .output import clear_up, is_left_behind, new_folder, refuse_inside, refuse_taken, state_folder
from .run_log import RunLog
from .source import refuse_quantized, resolve_source
from .state import open_state, remove_state
from .tables import TableSource, build_skeleton, find_tables
from .tensor_file import DTYPES, NewTensor
from .weights import Weights, convert_weights, read_weights
from .write import Change, write_checkpoint


def compress_checkpoint(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: LightTokenConfig,
    *,
    revision: str | None = None,
    subfolder: str = "",
    frequencies: Tensor | None = None,
    calibration: str | Sequence[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    accelerator: Accelerator | None = None,
    restart: bool = False,
    log: str | os.PathLike[str] | None = None,
) -> CompressionReport:
    """Compresses the token-embedding tables of a checkpoint; every other tensor is copied byte for byte.

    Only the tables are read; the model is loaded only where it is to be measured (`metric="auto"`). Tokenizer and other
    files come along; weights in other formats than safetensors are left behind. The output appears whole or not at all.
    A killed run goes on from its last finished stage when it is called again with the same settings.

    Args:
        source: a folder, or a repository on the Hub.
        output: the folder to make; must not exist, or be empty.
        config: how to compress.
        revision: of the repository.
        subfolder: of the source, where the model lies.
        frequencies: (V,) counts of the tokens, by id.
        calibration: text on which to measure where the model is sensitive.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        progress: told of each step, in the main process; progress bars on standard error when None.
        accelerator: of the processes that work together, each of which makes this call; each codes its share of the
            rows. The stored bytes do not depend on their number. None for a single process.
        restart: forget what a stopped run has finished.
        log: a file to add a line to at each step: stage, error so far, bytes exchanged, time left.

    Returns:
        What was stored, and how faithful it is.

    Raises:
        SourceError: if there is no usable dense checkpoint, or it is quantized already.
        OutputError: if the output is there already, another run is writing it, or a stopped run with other settings is
            to go on.
        ProcessError: if another process failed.
        OSError: if something cannot be written.
        ValueError: if the config cannot be met.
    """
    if not isinstance(config, LightTokenConfig):
        raise TypeError(f"config must be a LightTokenConfig, got {type(config).__name__}.")
    if config.is_compressed:
        raise ValueError("config describes a compressed checkpoint: give a new LightTokenConfig.")
    processes = Processes(accelerator)
    torch_device = _device_of(processes, device)
    found = processes.in_turn(lambda: resolve_source(source, revision, subfolder))
    with processes.agreed():
        refuse_quantized(found)
        refuse_inside(output, found.folder)
    left_behind = processes.on_main(lambda: _check_output(output))
    facts = processes.on_main(lambda: source_facts(found, subfolder))
    origin = origin_of(facts, torch_device, frequencies, calibration)
    settings = {**config.to_dict(), **origin, "processes": processes.count}
    if left_behind and processes.on_main(lambda: _complete(output, config, origin)):
        return processes.on_main(lambda: compression_report(output))
    with ExitStack() as stack, progress_bars(progress, shown=processes.is_main) as shown:
        report = RunLog(shown, None if log is None else Path(log).expanduser(), processes)
        folder = processes.on_main(lambda: stack.enter_context(new_folder(output)))
        state = state_folder(folder)
        processes.on_main(lambda: open_state(state, settings, restart))
        converted = folder.with_name("converted")
        needed = processes.on_main(lambda: _convert_where_needed(found.folder, converted))
        with processes.agreed():
            weights = read_weights(converted if needed else found.folder)
            skeleton = build_skeleton(found.folder)
            sources = find_tables(skeleton, weights, config)
            tokenizer = tokenizer_of(skeleton, [entry.site for entry in sources])
        load_model = _model_loader(skeleton, found.folder, torch_device)
        context = FittingContext(
            config, load_model, tokenizer, frequencies, calibration, report, on_error=report.note_error
        )
        coder = TableCoder(context, processes, torch_device, state)
        results = {entry.site.owner: coder.code(entry, number) for number, entry in enumerate(sources)}
        change = _change(sources, {name: table for name, (table, _) in results.items()})
        carried = processes.on_main(lambda: {CARRIED: _carried_digest(sources, weights, change)})
        recorded = record_tables(config, results, origin | carried)
        recorded.shared_heads = {entry.site.owner: list(entry.site.heads) for entry in sources}
        new_config = {**found.config, "quantization_config": recorded.to_dict()}
        processes.on_main(lambda: write_checkpoint(folder, found, weights, change, new_config, report))
        processes.on_main(stack.close)
        remove_state(state)  # of this process, where it is on another machine
    return processes.on_main(lambda: compression_report(output))


def _device_of(processes: Processes, device: str) -> torch.device:
    return processes.device if device == "auto" and processes.device is not None else resolve_device(device)


def _check_output(output: str | os.PathLike[str]) -> bool:
    """Whether a killed run has left something beside a finished output; without that there may be no output."""
    left_behind = is_left_behind(output)
    if not left_behind:
        refuse_taken(output)
    return left_behind


def _complete(output: str | os.PathLike[str], config: LightTokenConfig, origin: Mapping[str, Any]) -> bool:
    """Clears up after a run that was killed when its output was in place; False if that is of another run."""
    recorded = recorded_origin(output, config)
    if recorded is None or any(recorded.get(name) != value for name, value in origin.items()):
        return False
    clear_up(output)
    return True


def resolve_device(device: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here.

    Raises:
        ValueError: if it is another word, or there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but PyTorch finds no GPU here: use 'cpu' or 'auto'.")
    return torch.device("cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu")


def _model_loader(skeleton: PreTrainedModel, folder: Path, device: torch.device) -> Callable[[], PreTrainedModel]:
    """Loads the dense model in float32, once, where it is to be measured."""

    @functools.cache
    def load() -> PreTrainedModel:
        return type(skeleton).from_pretrained(folder, dtype=torch.float32).to(device)  # pyright: ignore

    return load


def _convert_where_needed(folder: Path, converted: Path) -> bool:
    """Whether there were weights in PyTorch's own files alone, which now lie in `converted` as safetensors."""
    if (folder / WEIGHTS).is_file() or (folder / WEIGHTS_INDEX).is_file():
        return False
    convert_weights(folder, converted)
    return True


def _carried_digest(sources: list[TableSource], weights: Weights, change: Change) -> str:
    kept = [tensor for key, tensor in weights.tensors.items() if key not in change.removed]
    return carried_digest([*kept, *(head for source in sources for head in source.dense_heads.values())])


def _change(sources: list[TableSource], tables: Mapping[str, CompressedTable]) -> Change:
    change = Change()
    for source in sources:
        table, home = tables[source.site.owner], source.weight.path.name
        change.removed |= set(source.keys)
        for name, tensor in table.tensors.items():
            change.add(f"{source.prefix}.{name}", NewTensor.of(tensor), home)
        # Without this package transformers stops at the sentinel's shape. Another dtype would mislead dtype="auto".
        sentinel = torch.empty(0, dtype=DTYPES[source.weight.dtype])
        change.add(f"{source.prefix}.{SENTINEL}", NewTensor.of(sentinel), home)
        for key, head in source.dense_heads.items():
            change.add(key, head, head.path.name)
        rows, dim = table.shape
        change.parameters += table.plan.num_exact * dim - rows * dim * (1 - len(source.dense_heads))
    return change


def record_tables(
    config: LightTokenConfig,
    results: Mapping[str, tuple[CompressedTable, dict[str, Any]]],
    origin: dict[str, Any],
) -> LightTokenConfig:
    """The config of a compressed checkpoint.

    Args:
        config: what was asked for.
        results: the tables by name, each with what is recorded of it.
        origin: what they were made from.
    """
    stored = {f"{name}.{key}": tensor for name, (table, _) in results.items() for key, tensor in table.tensors.items()}
    recorded = copy.deepcopy(config)
    recorded.tables = {name: table.plan.to_dict() for name, (table, _) in results.items()}
    recorded.digest = checkpoint_digest(stored, recorded.tables)
    recorded.format_version, recorded.plugin_version = FORMAT_VERSION, __version__
    recorded.provenance = {**origin, "tables": {name: facts for name, (_, facts) in results.items()}}
    return recorded
