"""heal_checkpoint: a compressed checkpoint on disk, healed against the dense one. Beyond the paper."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from transformers import AutoTokenizer, PreTrainedModel

from ..coding.encode import Progress
from ..coding.plan import EXACT_DTYPES
from ..coding.table import CompressedTable
from ..evaluation.fidelity import block_fidelities, cosines_of, fidelity_of
from ..modeling.checkpoint import matching_name
from ..modeling.heal import HealingOptions, HealingResult, heal_model
from ..modeling.sites import owners
from ..progress import progress_bars
from .compress import record_tables, resolve_device
from .compressed import CompressedCheckpoint, read_compressed
from .histogram import cosine_histogram
from .origin import digest_of_text, source_facts
from .output import OutputError, recover_folder, replaced_folder
from .source import Source, SourceError, refuse_quantized, resolve_source
from .tables import build_skeleton
from .write import Change, write_checkpoint

_RUN = "run.json"


def heal_checkpoint(
    folder: str | os.PathLike[str],
    text: str | Sequence[str],
    *,
    baseline: str | os.PathLike[str] | None = None,
    options: HealingOptions | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> HealingResult:
    """Distils the dense model into a compressed checkpoint, which is replaced by the result as a whole.

    Only the compressed tables change; every other tensor is copied byte for byte. A killed run goes on where it was
    when it is started again with the same arguments, and gives the same result.

    Args:
        folder: of the compressed checkpoint.
        text: generic text, one string whose lines are passages, or a sequence of passages.
        baseline: the dense model, a folder or a repository on the Hub; the one that the checkpoint says it was made
            from when None.
        options: how.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        progress: told of each step; progress bars on standard error when None.

    Raises:
        SourceError: if the checkpoint is dense, or the baseline is compressed, not there or not known.
        LightTokenCheckpointError: if the checkpoint is damaged.
        ValueError: if the text or the tokenizer does not fit, or healing made the model no better.
        OutputError: if another run heals the same checkpoint.
    """
    options = options or HealingOptions()
    torch_device = resolve_device(device)
    recover_folder(folder)
    checkpoint = read_compressed(folder)
    dense = _baseline(checkpoint, baseline)
    tokenizer = _tokenizer(checkpoint.source.folder)
    model, teacher = _models(checkpoint, dense, torch_device)
    run = {
        "digest": checkpoint.config.digest,
        "baseline": dense.repo_id or str(dense.folder.resolve()),
        "revision": dense.revision,
        "baseline_digest": source_facts(dense).get("source_digest"),
        "text": digest_of_text(text),
        "device": torch_device.type,
        **asdict(options),
    }
    with _run_folder(checkpoint.source.folder, run) as working, progress_bars(progress) as report:
        result = heal_model(model, teacher, tokenizer, text, options, run_folder=working, progress=report)
        if not result.divergence_after < result.divergence_before:
            shutil.rmtree(working, ignore_errors=True)
            raise ValueError(
                f"healing made the model no better (divergence {result.divergence_before:.4g} before, "
                f"{result.divergence_after:.4g} after), so {folder} was left as it is: give more text, or a lower "
                "learning rate."
            )
        facts = {key: value for key, value in run.items() if key not in ("digest", "save_steps")} | asdict(result)
        facts["baseline"] = dense.repo_id  # no path of this machine
        _write(checkpoint, model, teacher, facts, report)
    return result


def _baseline(checkpoint: CompressedCheckpoint, baseline: str | os.PathLike[str] | None) -> Source:
    provenance = checkpoint.config.provenance or {}
    named = baseline or provenance.get("source")
    if named is None:
        raise SourceError(
            f"{checkpoint.source.folder} does not say which repository on the Hub it was made from: name the dense "
            "model with --baseline (baseline=)."
        )
    found = resolve_source(named, None if baseline else provenance.get("revision"))
    refuse_quantized(found)
    return found


def _tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{folder} has no tokenizer that can be read, which healing needs: {error}") from error


def _models(
    checkpoint: CompressedCheckpoint, dense: Source, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedModel]:
    model_class: Any = type(build_skeleton(checkpoint.source.folder))
    load = {"dtype": torch.float32}
    model = model_class.from_pretrained(checkpoint.source.folder, **load).to(device)
    try:
        return model, model_class.from_pretrained(dense.folder, **load).to(device)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SourceError(
            f"{dense.repo_id or dense.folder} is no dense {model_class.__name__} here: {reason}"
        ) from error


@contextmanager
def _run_folder(folder: Path, run: dict[str, Any]) -> Iterator[Path]:
    """The folder of a run's checkpoints, beside what it heals; another run's are cleared. Gone when the run is done."""
    target = folder.expanduser().resolve()
    home = target.with_name(f".{target.name}.healing")
    home.mkdir(exist_ok=True)
    lock = FileLock(home / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(f"another run heals {target}: wait for it.") from None
    note, steps = home / _RUN, home / "steps"
    try:
        described = json.dumps(run, indent=2, sort_keys=True)
        if not note.is_file() or note.read_text(encoding="utf-8") != described:
            shutil.rmtree(steps, ignore_errors=True)
            note.write_text(described, encoding="utf-8")
        yield steps
        shutil.rmtree(steps, ignore_errors=True)
    finally:
        goes_on = steps.is_dir() and any(steps.iterdir())
        lock.release()
        if not goes_on:
            shutil.rmtree(home, ignore_errors=True)


def _write(
    checkpoint: CompressedCheckpoint,
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    facts: dict[str, Any],
    progress: Progress,
) -> None:
    """Replaces the checkpoint by one with the model's tables, and what is known of them now."""
    held = owners(model)
    weights = dict(teacher.named_parameters(remove_duplicate=False))
    change, results = Change(), {}
    for entry in checkpoint.tables:
        name = matching_name(entry.name, held) or next(iter(held))
        table = _as_stored(held[name].table, entry.plan.exact_dtype)
        entry.replace_by(table, change)
        blocks = block_fidelities(weights[f"{name}.weight"].detach().cpu(), table.decode_all())
        recorded = {
            **entry.provenance,
            "digest": table.digest(),
            **asdict(fidelity_of(blocks)),
            "cosine_histogram": cosine_histogram(cosines_of(blocks)),
        }
        results[entry.name] = (table, recorded)
    provenance = checkpoint.config.provenance or {}
    origin = {**provenance, "healed": [*provenance.get("healed", []), facts]}
    config = record_tables(checkpoint.config, results, origin)
    new_config = {**checkpoint.source.config, "quantization_config": config.to_dict()}
    with replaced_folder(checkpoint.source.folder) as new:
        write_checkpoint(new, checkpoint.source, checkpoint.weights, change, new_config, progress)


def _as_stored(table: CompressedTable, exact_dtype: str) -> CompressedTable:
    tensors = {key: tensor.cpu() for key, tensor in table.tensors.items()}
    tensors["exact_rows"] = tensors["exact_rows"].to(EXACT_DTYPES[exact_dtype])
    return CompressedTable(replace(table.plan, exact_dtype=exact_dtype), tensors)
