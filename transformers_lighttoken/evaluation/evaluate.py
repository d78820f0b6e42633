"""evaluate_checkpoint: a dense or compressed checkpoint on tasks, beside the dense model."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from ..checkpoint.tables import build_skeleton
from ..modeling.positions import longest_input
from ..version import __version__
from .fine_tuning.runs import Run, TaskData, check_seeds, finite
from .fine_tuning.settings import FineTuningSettings
from .fine_tuning.summary import task_results
from .fine_tuning.tasks import TASKS
from .names import DEFAULT_OUTPUT, ZERO_SHOT_TASKS, check_tasks
from .subject import Subject, open_subject
from .zero_shot.tasks import zero_shot_results

Told = Callable[[str], None]
"""Told of each run in one line of text."""


def evaluate_checkpoint(
    source: str | os.PathLike[str],
    tasks: str | Sequence[str],
    *,
    data: str | os.PathLike[str] | None = None,
    baseline: str | os.PathLike[str] | None = None,
    seeds: Sequence[int] = (0,),
    settings: FineTuningSettings | None = None,
    output: str | os.PathLike[str] = DEFAULT_OUTPUT,
    revision: str | None = None,
    max_tokens: int | None = None,
    told: Told = lambda text: None,
) -> dict[str, Any]:
    """Evaluates a checkpoint.

    A run of fine-tuning is stored in the output folder as it finishes, and found there the next time; one that was
    interrupted goes on from its last whole epoch. What is stored is taken only for the same weights, data, settings
    and seed.

    Args:
        source: a dense or compressed checkpoint: a folder, or a repository on the Hub.
        tasks: of `names.ALL_TASKS`.
        data: local folder with a folder a task, as `data.load_rows` reads it; the Hub when None.
        baseline: the dense checkpoint, to be measured in the same way.
        seeds: one run of fine-tuning each.
        settings: of fine-tuning; customary ones when None.
        output: folder for runs.
        revision: of the source, on the Hub.
        max_tokens: for perplexities, read only so many tokens of the text.
        told: of each run.

    Returns:
        Plain JSON values: `identity` and `digest` of the checkpoint (`Subject`), `results` as a model card reads them
        (fractions, not percent), and beside them `model`, `baseline`, `baseline_is_source` (whether the compressed one
        was made from it), `seeds`, `settings` by task, `runs` and `versions`.

    Raises:
        SourceError: if there is no usable checkpoint.
        ValueError: if a task is unknown, or model, tokenizer and data do not fit together.
        OSError: if data cannot be read.
        RunTakenError: if another process makes one of the runs.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    check_tasks(names)
    check_seeds(seeds)
    subject = open_subject(source, revision)
    dense = None if baseline is None else open_subject(baseline)
    settings, identity = settings or FineTuningSettings(), subject.identity()
    results, records, used = [], [], {}
    fine_tuned = [TASKS[name] for name in names if name in TASKS]
    loaded = {task.name: TaskData.load(task, data, bool(settings.of(task).epochs)) for task in fine_tuned}
    models = [one for one in (subject, dense) if one is not None]
    check_runs([plan_runs(one, loaded[task.name], settings, seeds, output) for task in fine_tuned for one in models])
    measured = [
        result
        for name in names
        if name in ZERO_SHOT_TASKS
        for result in zero_shot_results(name, subject, dense, data, max_tokens, device_of(settings))
    ]
    for task in fine_tuned:
        ours, theirs = (
            [] if one is None else made_runs(one, loaded[task.name], settings, seeds, output, told)
            for one in (subject, dense)
        )
        used[task.name] = ours[0]["identity"]["settings"]
        setting = "fine-tuned" if used[task.name]["epochs"] else "as it is"
        results += task_results(task, data is not None, setting, ours, theirs)
        records += ours + theirs
    results += measured
    is_source = None if dense is None else subject.was_made_from(dense)
    return finite({
        "identity": identity, "digest": subject.digest, "results": results, "model": subject.name,
        "baseline": dense.name if dense else None, "baseline_is_source": is_source,
        "seeds": list(seeds), "settings": used, "runs": records,
        "versions": {
            "transformers-lighttoken": __version__, "torch": torch.__version__, "transformers": transformers.__version__
        },
    })  # fmt: skip


def device_of(settings: FineTuningSettings) -> str:
    """The device that the settings mean here."""
    return "cuda" if settings.device == "auto" and torch.cuda.is_available() else "cpu"


def check_runs(planned: Sequence[Sequence[Run]]) -> None:
    """Prepares one run of each kind that is still to be made, so that nothing is trained before all are known to fit.

    Args:
        planned: the runs of a checkpoint on a task, one a seed.

    Raises:
        ValueError: if model, tokenizer and data of one do not fit together.
    """
    missing = [runs[0] for runs in planned if any(run.stored() is None for run in runs)]
    for run in missing[1:]:  # the first is prepared before it trains
        run.prepare()


def made_runs(
    subject: Subject, data: TaskData, settings: FineTuningSettings, seeds: Sequence[int],
    output: str | os.PathLike[str], told: Told,
) -> list[dict[str, Any]]:  # fmt: skip
    """The records of a checkpoint's runs on a task, one a seed; those that are not stored yet are made."""
    records = []
    for run in plan_runs(subject, data, settings, seeds, output):
        record = run.stored()
        if record is None:
            told(f"{subject.name}: {data.task.title}, seed {run.seed}")
            record = run.make()
        records.append(record)
    return records


def plan_runs(
    subject: Subject, data: TaskData, settings: FineTuningSettings, seeds: Sequence[int], output: str | os.PathLike[str]
) -> list[Run]:
    """The runs of a checkpoint on a task, one a seed; nothing is trained yet.

    Raises:
        ValueError: if the settings are not possible for the model.
    """
    filled = settings.of(data.task, longest_input(build_skeleton(subject.folder), subject.tokenizer()))
    identity, data_identity = subject.identity(), data.identity()
    folder = Path(output).expanduser()
    return [Run.of(subject, identity, data, data_identity, filled, seed, folder) for seed in seeds]
