"""Measured results of a model, from the JSON of an evaluation."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .markup import one_line

FILE_NAME = "lighttoken_evaluation.json"
_LONGEST_FILE = 1 << 20

Evaluation = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class MeasuredResult:
    """One figure of an evaluation.

    Attributes:
        task: what was measured, such as "STS-B".
        metric: such as "spearman".
        value: of the compressed model.
        dense: the same of the dense model, measured in the same way.
        standard_error: of the value.
        setting: such as "zero-shot" or "fine-tuned".
        task_type: the Hub's name for the kind of task, such as "sentence-similarity".
        dataset: its repository on the Hub, such as "nyu-mll/glue".
        dataset_config: such as "stsb".
        split: such as "validation".
        runs: number of runs that `value` is the mean of.
    """

    task: str
    metric: str
    value: float
    dense: float | None = None
    standard_error: float | None = None
    setting: str | None = None
    task_type: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    split: str | None = None
    runs: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not known is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def read_results(evaluations: Evaluation | Sequence[Evaluation] | None, digest: str | None) -> list[MeasuredResult]:
    """Reads evaluations.

    An evaluation is `{"digest": ..., "results": [{"task": ..., "metric": ..., "value": ..., ...}]}`, each result with
    the keys of `MeasuredResult`; further keys are left aside.

    Args:
        evaluations: JSON files, or what they hold.
        digest: of the checkpoint; an evaluation that names another one is of another model.

    Raises:
        ValueError: if a file is no such JSON, or of another model.
    """
    if evaluations is None:
        return []
    if isinstance(evaluations, (str, os.PathLike, Mapping)):
        evaluations = [evaluations]
    results: list[MeasuredResult] = []
    for number, evaluation in enumerate(evaluations):
        name = f"evaluation[{number}]" if isinstance(evaluation, Mapping) else f"evaluation {evaluation}"
        content = evaluation if isinstance(evaluation, Mapping) else _read_json(Path(evaluation), name)
        _check_digest(content, digest, name)
        results += [_result(entry, f"{name}, results[{index}]") for index, entry in enumerate(content["results"])]
    return results


def read_own_results(folder: Path, digest: str | None) -> list[MeasuredResult]:
    """The results that an earlier push left in a folder; none if they are of another state of the model."""
    path = folder / FILE_NAME
    if not path.is_file():
        return []
    try:
        content = _read_json(path, FILE_NAME)
        return read_results(content, digest) if content.get("digest") == digest else []
    except ValueError:
        return []


def to_json(results: Sequence[MeasuredResult], digest: str | None) -> bytes:
    """The results as they are published beside the model."""
    content = {"digest": digest, "results": [result.to_dict() for result in results]}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _read_json(path: Path, name: str) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"{name}: there is no such file.")
    if path.stat().st_size > _LONGEST_FILE:
        raise ValueError(f"{name} is larger than {_LONGEST_FILE} bytes: give the JSON of an evaluation.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{name} is no JSON: {one_line(error)}.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} holds no JSON object, but {type(content).__name__}.")
    return content


def _check_digest(content: Mapping[str, Any], digest: str | None, name: str) -> None:
    if not isinstance(content.get("results"), list):
        raise ValueError(f'{name} has no list of "results": give the JSON that `lighttoken evaluate --json` prints.')
    if "digest" in content and content["digest"] is None:
        raise ValueError(f"{name} is of a dense model: its digest is null. Evaluate the compressed checkpoint.")
    if content.get("digest", digest) != digest:
        raise ValueError(
            f"{name} is of another model: it names the digest {one_line(content['digest'])}, the checkpoint has "
            f"{digest}. Evaluate this checkpoint."
        )


def _result(entry: Any, name: str) -> MeasuredResult:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{name} must be an object with task, metric and value, got {one_line(entry)}.")
    values: dict[str, Any] = {field.name: entry.get(field.name) for field in fields(MeasuredResult)}
    for key in ("task", "metric"):
        if not isinstance(values[key], str) or not values[key]:
            raise ValueError(f"{name}: {key} must be a text, got {one_line(values[key])!r}.")
    for key in ("value", "dense", "standard_error"):
        if (key == "value" or values[key] is not None) and not _is_number(values[key]):
            raise ValueError(f"{name}: {key} must be a finite number, got {one_line(values[key])!r}.")
    for key in ("setting", "task_type", "dataset", "dataset_config", "split"):
        if values[key] is not None and not isinstance(values[key], str):
            raise ValueError(f"{name}: {key} must be a text, got {one_line(values[key])!r}.")
    if values["runs"] is not None and (not isinstance(values["runs"], int) or values["runs"] < 1):
        raise ValueError(f"{name}: runs must be a positive integer, got {one_line(values['runs'])!r}.")
    return MeasuredResult(**values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
