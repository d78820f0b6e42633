"""The grid goes on where it was, and its table says what was measured."""

import json
from pathlib import Path

import pytest

from tests.checkpoints import add_tokenizer, save_dense, tensor_digests
from tests.tiny_models import ARCHITECTURES
from tests.unit.evaluation.fine_tuning.samples import write_glue, write_rows
from transformers_lighttoken.evaluation.baselines import fit_baseline
from transformers_lighttoken.evaluation.baselines.checkpoint import baseline_checkpoint
from transformers_lighttoken.evaluation.comparison.grid import compare, make_grid
from transformers_lighttoken.evaluation.comparison.methods import Method, default_methods, make_contender
from transformers_lighttoken.evaluation.fine_tuning.runs import Run
from transformers_lighttoken.evaluation.fine_tuning.settings import FineTuningSettings
from transformers_lighttoken.evaluation.subject import open_subject

TABLE = "embeddings.word_embeddings.weight"


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    save_dense(tmp_path / "dense")
    add_tokenizer(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_glue(write_glue(tmp_path / "data", "cola"), "stsb")


def grid_of(dense: Path, data: Path, output: Path, tasks: tuple[str, ...] = ("cola",), seeds: tuple[int, ...] = (0, 1)):
    methods = [Method.parse(text) for text in ("dense", "lighttoken@4:frozen", "svd_fp16@4")]
    settings = FineTuningSettings(epochs=1, device="cpu")
    return make_grid(dense, methods, tasks, seeds, output, data, settings)


def test_an_interrupted_grid_goes_on_and_ends_alike(dense: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    whole = compare(grid_of(dense, data, tmp_path / "whole"))
    assert whole["missing"] == 0
    make, made = Run.make, []

    def interrupted(self: Run):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(self.folder.name)
        return make(self)

    monkeypatch.setattr(Run, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(grid_of(dense, data, tmp_path / "out"))
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert stored["missing"] == 4
    assert stored["averaged_tasks"] == []
    assert [sorted(row["tasks"]) for row in stored["methods"]] == [["cola"], ["cola"], []]
    monkeypatch.setattr(Run, "make", make)
    told: list[str] = []
    some = compare(grid_of(dense, data, tmp_path / "out"), max_runs=2, told=told.append)
    assert some["missing"] == 2
    assert told == ["svd_fp16-4x, table frozen: CoLA, seed 0", "dense, table trained: CoLA, seed 1"]
    rest = compare(grid_of(dense, data, tmp_path / "out"))
    for report in (whole, rest):
        for row in report["methods"]:
            for task in row["tasks"].values():
                del task["seconds"]
    assert rest == whole


@pytest.mark.parametrize("method", ["lighttoken@4:frozen", "svd_fp16@4"])
def test_another_sources_checkpoint_is_not_taken(method: str, dense: Path, tmp_path: Path) -> None:
    made = make_contender(Method.parse(method), dense, tmp_path / "models")
    assert make_contender(Method.parse(method), dense, tmp_path / "models").stored_bytes == made.stored_bytes
    ARCHITECTURES["bert"].build(seed=7).save_pretrained(tmp_path / "other")
    add_tokenizer(tmp_path / "other")
    with pytest.raises(ValueError, match="was made from another model than .*other: give another output, or remove it"):
        make_contender(Method.parse(method), tmp_path / "other", tmp_path / "models")


def test_rows_that_do_not_fit_are_met_before_anything_is_compressed(dense: Path, data: Path, tmp_path: Path) -> None:
    write_rows(data, "stsb", "validation", {"sentence1": ["a"], "sentence2": ["b"], "label": [float("nan")]})
    with pytest.raises(ValueError, match="labels of stsb are finite numbers"):
        compare(grid_of(dense, data, tmp_path / "out", tasks=("cola", "stsb")))
    assert not (tmp_path / "out").exists()


def test_the_table(dense: Path, data: Path, tmp_path: Path) -> None:
    report = compare(grid_of(dense, data, tmp_path / "out", ("cola", "stsb"), (0,)))
    base, ours, svd = report["methods"]
    assert (base["stored_bytes"], base["table"]) == (None, "trained")
    assert 0 < svd["stored_bytes"] <= 160 * 32
    assert 0 < ours["stored_bytes"] <= 160 * 32
    scores = [base["tasks"][name]["score"]["value"] for name in ("cola", "stsb")]
    assert base["average"]["value"] == pytest.approx(sum(scores) / 2)
    assert base["compared"]["share"] == 1
    assert ours["compared"]["difference"] == pytest.approx(ours["average"]["value"] - base["average"]["value"])
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text.startswith("| method | table bytes | cola | stsb | average of 2 | of dense |\n")
    assert f"| svd_fp16-4x, table frozen | {svd['stored_bytes']} | " in text
    assert report["note"] in text


def test_a_baselines_checkpoint_differs_in_its_table_alone(dense: Path, tmp_path: Path) -> None:
    facts = baseline_checkpoint(dense, tmp_path / "svd", "svd_fp16", 4.0)
    before, after = tensor_digests(dense), tensor_digests(tmp_path / "svd")
    assert {key for key in before if before[key] != after[key]} == {TABLE}
    assert set(before) == set(after)
    from transformers import AutoModel

    weight = AutoModel.from_pretrained(dense).get_input_embeddings().weight
    expected = fit_baseline("svd_fp16", weight, 4.0)
    assert (AutoModel.from_pretrained(tmp_path / "svd").get_input_embeddings().weight == expected.table).all()
    assert facts["stored_bytes"] == expected.stored_bytes
    assert open_subject(tmp_path / "svd").digest is None


def test_methods_by_name() -> None:
    assert Method.parse("dense") == Method("dense")
    assert Method.parse("lighttoken@25") == Method("lighttoken", 25.0, "trained")
    assert Method.parse("lighttoken@25:frozen").name == "lighttoken-25x, table frozen"
    assert Method.parse("opq_fp16@103").table == "frozen"
    assert len(set(default_methods())) == 12
    for text, message in (
        ("dense@4", "method must be dense, lighttoken@RATIO"),
        ("lighttoken", "method must be dense, lighttoken@RATIO"),
        ("word2bits@4", "baselines are int8, int4, svd_fp32"),
        ("lighttoken@4:warm", "got 'lighttoken@4:warm'"),
        ("lighttoken@many", "the ratio must be a number, got 'many'"),
        ("svd_fp16@4:trained", "a baseline's table is frozen, its bytes could not store what trains"),
    ):
        with pytest.raises(ValueError, match=message):
            Method.parse(text)


def test_an_empty_grid_is_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seeds must not be empty"):
        make_grid(dense, [Method("dense")], ["cola"], [], tmp_path)
    with pytest.raises(ValueError, match="task must be one of cola"):
        make_grid(dense, [Method("dense")], ["perplexity"], [0], tmp_path)
