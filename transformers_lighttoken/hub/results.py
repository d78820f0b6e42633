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
LONGEST_FILE = 1 << 20
BASELINE_IS_SOURCE = "baseline_is_source"
"""Key of an evaluation: whether the dense model beside it is the one that was compressed."""

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
        dense_is_source: whether the dense model was checked to be the one that was compressed.
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
    dense_is_source: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not known is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def subject(self) -> tuple[str | None, ...]:
        """What was measured: a second result of the same takes the place of the first."""
        return (self.task, self.metric, self.setting, self.dataset, self.dataset_config, self.split)


@dataclass(frozen=True)
class Evaluated:
    """What was measured, and of which model.

    Attributes:
        identity: of the checkpoint that was measured (`checkpoint.identity`).
        results: the figures.
    """

    identity: str | None = None
    results: tuple[MeasuredResult, ...] = ()

    def completed_by(self, earlier: "Evaluated") -> "Evaluated":
        """These results, and those of an earlier evaluation of the same model that measured something else."""
        ours = {result.subject for result in self.results}
        others = tuple(result for result in earlier.results if result.subject not in ours)
        return Evaluated(self.identity or earlier.identity, self.results + others)

    def to_json(self, digest: str | None) -> bytes:
        """As it is published beside the model, with the digest of its tables that the card names."""
        results = [result.to_dict() for result in self.results]
        content = {"identity": self.identity, "digest": digest, "results": results}
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def read_results(evaluations: Evaluation | Sequence[Evaluation], identity: str) -> Evaluated:
    """Reads evaluations.

    An evaluation is `{"identity": ..., "results": [{"task": ..., "metric": ..., "value": ..., ...}]}`, each result with
    the keys of `MeasuredResult`, and "baseline_is_source" where dense figures are among them; further keys are left
    aside.

    Args:
        evaluations: JSON files, or what they hold.
        identity: of the checkpoint; an evaluation that names another one, or none, is not known to be of it.

    Raises:
        ValueError: if a file is no such JSON, or not of this checkpoint.
    """
    if isinstance(evaluations, (str, os.PathLike, Mapping)):
        evaluations = [evaluations]
    results: list[MeasuredResult] = []
    for number, evaluation in enumerate(evaluations):
        name = f"evaluation[{number}]" if isinstance(evaluation, Mapping) else f"evaluation {evaluation}"
        content = evaluation if isinstance(evaluation, Mapping) else _read_json(Path(evaluation), name)
        results += parse_results(content, name)
        _check_subject(content, identity, name)
    return Evaluated(identity, tuple(results))


def read_published(published: bytes, identity: str) -> Evaluated:
    """The results that an earlier push has left; none if they are of another state of the model, or damaged."""
    try:
        content = _parse_json(published, FILE_NAME)
        _check_subject(content, identity, FILE_NAME)
        return Evaluated(identity, tuple(parse_results(content, FILE_NAME)))
    except ValueError:
        return Evaluated()


def parse_results(content: Mapping[str, Any], name: str) -> list[MeasuredResult]:
    """The figures of an evaluation.

    Args:
        content: of its JSON.
        name: for messages.

    Raises:
        ValueError: naming what is malformed.
    """
    if not isinstance(content.get("results"), list):
        raise ValueError(f'{name} has no list of "results": give the JSON that `lighttoken evaluate --json` prints.')
    is_source = content.get(BASELINE_IS_SOURCE) is True
    return [_result(entry, f"{name}, results[{index}]", is_source) for index, entry in enumerate(content["results"])]


def _read_json(path: Path, name: str) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"{name}: there is no such file.")
    if path.stat().st_size > LONGEST_FILE:
        raise ValueError(f"{name} is larger than {LONGEST_FILE} bytes: give the JSON of an evaluation.")
    return _parse_json(path.read_bytes(), name)


def _parse_json(text: bytes, name: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON: {one_line(error)}.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} holds no JSON object, but {type(content).__name__}.")
    return content


def _check_subject(content: Mapping[str, Any], identity: str, name: str) -> None:
    remedy = "Evaluate this checkpoint as it is now (lighttoken evaluate FOLDER --task TASK --json), and give that."
    if "digest" in content and content["digest"] is None:
        raise ValueError(f"{name} is of a dense model: its digest is null. {remedy}")
    if content.get("identity") is None:
        raise ValueError(f"{name} does not say which model was measured: it has no identity. {remedy}")
    if content["identity"] != identity:
        raise ValueError(
            f"{name} is of another model, or another state of it: it names the identity "
            f"{one_line(content['identity'])}; that of the config, weights and tokenizer here is {identity}. {remedy}"
        )


def _result(entry: Any, name: str, dense_is_source: bool) -> MeasuredResult:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{name} must be an object with task, metric and value, got {one_line(entry)}.")
    values: dict[str, Any] = {field.name: entry.get(field.name) for field in fields(MeasuredResult)}
    for key in ("task", "metric"):
        if not isinstance(values[key], str) or not values[key]:
            raise ValueError(f"{name}: {key} must be a text, got {one_line(values[key])!r}.")
    for key in ("value", "dense", "standard_error"):
        if (key == "value" or values[key] is not None) and not is_number(values[key]):
            raise ValueError(f"{name}: {key} must be a finite number, got {one_line(values[key])!r}.")
    for key in ("setting", "task_type", "dataset", "dataset_config", "split"):
        if values[key] is not None and not isinstance(values[key], str):
            raise ValueError(f"{name}: {key} must be a text, got {one_line(values[key])!r}.")
    if values["runs"] is not None and (not isinstance(values["runs"], int) or values["runs"] < 1):
        raise ValueError(f"{name}: runs must be a positive integer, got {one_line(values['runs'])!r}.")
    is_source = dense_is_source or values["dense_is_source"] is True
    values["dense_is_source"] = None if values["dense"] is None else is_source
    return MeasuredResult(**values)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False
