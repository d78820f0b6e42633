"""Evaluations are read strictly: a figure in a card has to be one."""

import json
from pathlib import Path
from typing import Any

import pytest

from transformers_lighttoken.hub.results import Evaluated, MeasuredResult, read_published, read_results

RESULT: dict[str, Any] = {"task": "STS-B", "metric": "spearman", "value": 0.85, "runs": 3, "something": "else"}


ME, OTHER = "a" * 64, "b" * 64


def named(*results: dict[str, Any]) -> dict[str, Any]:
    return {"identity": ME, "results": list(results)}


def test_files_and_objects_one_or_several(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(named(RESULT)))
    one = MeasuredResult("STS-B", "spearman", 0.85, runs=3)
    assert read_results(path, ME) == Evaluated(ME, (one,))
    assert read_results(str(path), ME).results == (one,)
    assert read_results([path, named(RESULT)], ME).results == (one, one)
    assert read_results(named(), ME).results == ()


def test_round_trip():
    evaluated = read_results(named(RESULT), ME)
    published = evaluated.to_json("sha256:1")
    assert json.loads(published) == {
        "identity": ME,
        "digest": "sha256:1",
        "results": [{"task": "STS-B", "metric": "spearman", "value": 0.85, "runs": 3}],
    }
    assert read_published(published, ME) == evaluated
    assert read_published(published, OTHER) == Evaluated()
    assert read_published(b"{", ME) == read_published(b"[" * 100_000, ME) == Evaluated()


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (
            {},
            r"evaluation\[0\] does not say which model was measured: it has no identity. Evaluate this ",
        ),
        ({"identity": None}, "it has no identity"),
        ({"digest": "sha256:1"}, "it has no identity"),  # the same tables may stand among other dense weights
        ({"identity": OTHER}, f"another state of it: it names the identity {OTHER}; that of the .* here is {ME}. Eval"),
        ({"identity": ME, "digest": None}, "is of a dense model: its digest is null. Evaluate this checkpoint"),
    ],
)
def test_figures_of_another_model_are_refused(subject: dict[str, Any], message: str):
    content = {**subject, "results": [RESULT]}
    with pytest.raises(ValueError, match=message):
        read_results(content, ME)
    assert read_published(json.dumps(content).encode(), ME) == Evaluated()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None}, r"evaluation\[0\], results\[0\]: task must be a text, got 'None'"),
        ({"metric": ""}, "metric must be a text"),
        ({"value": "0.85"}, "value must be a finite number, got '0.85'"),
        ({"value": None}, "value must be a finite number"),
        ({"value": True}, "value must be a finite number"),
        ({"value": float("nan")}, "value must be a finite number, got 'nan'"),
        ({"dense": float("inf")}, "dense must be a finite number, got 'inf'"),
        ({"standard_error": "small"}, "standard_error must be a finite number"),
        ({"dataset": ["glue"]}, "dataset must be a text"),
        ({"runs": 0}, "runs must be a positive integer, got '0'"),
    ],
)
def test_wrong_results(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        read_results(named(RESULT | changes), ME)


def test_wrong_files(tmp_path: Path):
    path = tmp_path / "a.json"
    for content, message in (
        ("{", "a.json is no JSON"),
        ("[]", "a.json holds no JSON object, but list"),
        ("{}", 'a.json has no list of "results": give the JSON that `lighttoken evaluate --json` prints'),
        ('{"results": [3]}', r"results\[0\] must be an object with task, metric and value, got 3"),
        ('"' + "x" * (1 << 20) + '"', "is larger than 1048576 bytes"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_results(path, ME)
    with pytest.raises(ValueError, match="absent.json: there is no such file"):
        read_results(tmp_path / "absent.json", ME)
