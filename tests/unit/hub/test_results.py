"""Evaluations are read strictly: a figure in a card has to be one."""

import json
from pathlib import Path
from typing import Any

import pytest

from transformers_lighttoken.hub.results import FILE_NAME, MeasuredResult, read_own_results, read_results, to_json

RESULT: dict[str, Any] = {"task": "STS-B", "metric": "spearman", "value": 0.85, "runs": 3, "something": "else"}


def test_files_and_objects_one_or_several(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"digest": "d", "results": [RESULT]}))
    one = MeasuredResult("STS-B", "spearman", 0.85, runs=3)
    assert read_results(path, "d") == [one]
    assert read_results(str(path), "d") == [one]
    assert read_results([path, {"results": [RESULT]}], "d") == [one, one]
    assert read_results(None, "d") == []
    assert read_results({"results": []}, "d") == []


def test_round_trip(tmp_path: Path):
    results = read_results({"results": [RESULT]}, "d")
    (tmp_path / FILE_NAME).write_bytes(to_json(results, "d"))
    assert json.loads(to_json(results, "d")) == {
        "digest": "d",
        "results": [{"task": "STS-B", "metric": "spearman", "value": 0.85, "runs": 3}],
    }
    assert read_own_results(tmp_path, "d") == results
    assert read_own_results(tmp_path, "another state of the model") == []
    (tmp_path / FILE_NAME).write_text("{")
    assert read_own_results(tmp_path, "d") == []
    assert read_own_results(tmp_path / "absent", "d") == []


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
        read_results({"results": [RESULT | changes]}, "d")


def test_wrong_files(tmp_path: Path):
    path = tmp_path / "a.json"
    for content, message in (
        ("{", "a.json is no JSON"),
        ("[]", "a.json holds no JSON object, but list"),
        ("{}", 'a.json has no list of "results": give the JSON that `lighttoken evaluate --json` prints'),
        ('{"results": [3]}', r"results\[0\] must be an object with task, metric and value, got 3"),
        ('{"results": [], "digest": null}', "a.json is of a dense model: its digest is null"),
        ('{"results": [], "digest": "other"}', "is of another model: it names the digest other, the checkpoint has d"),
        ('"' + "x" * (1 << 20) + '"', "is larger than 1048576 bytes"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_results(path, "d")
    with pytest.raises(ValueError, match="absent.json: there is no such file"):
        read_results(tmp_path / "absent.json", "d")
