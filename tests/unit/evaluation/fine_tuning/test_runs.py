"""Real runs of Trainer on tiny models: learning, storing, going on when interrupted, refusing what does not fit."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer

from tests.checkpoints import SMALL, add_tokenizer, save_dense, write_config
from tests.unit.evaluation.fine_tuning.samples import sentence, write_glue, write_rows, write_squad
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.evaluation.evaluate import made_runs, plan_runs
from transformers_lighttoken.evaluation.fine_tuning.runs import RunTakenError, TaskData
from transformers_lighttoken.evaluation.fine_tuning.settings import FineTuningSettings
from transformers_lighttoken.evaluation.fine_tuning.tasks import TASKS
from transformers_lighttoken.evaluation.subject import open_subject

QUICK = FineTuningSettings(epochs=2, batch_size=8, learning_rate=1e-3, device="cpu")


def runs(model, data, output, task="stsb", seeds=(0,), settings=QUICK, told=lambda text: None):
    return made_runs(open_subject(model), TaskData.load(TASKS[task], data), settings, seeds, output, told)


def facts(record):
    return {key: record[key] for key in ("metrics", "row_standard_errors", "rows", "identity")}


def test_a_model_learns(model, tmp_path):
    data = write_glue(tmp_path / "data", "cola", rows=96)
    longer = FineTuningSettings(epochs=6, batch_size=8, learning_rate=5e-3, device="cpu")
    record = runs(model, data, tmp_path / "out", "cola", settings=longer)[0]
    assert record["metrics"]["matthews_correlation"] > 0.9
    assert record["steps"] == 72
    assert record["rows"] == [96]
    assert record["table_parameters_trained"] == 160 * 32


def test_runs_are_stored_and_found_again(model, data, tmp_path):
    told = []
    first = runs(model, data, tmp_path / "out", seeds=(0,), told=told.append)
    both = runs(model, data, tmp_path / "out", seeds=(0, 1), told=told.append)
    assert both[0] == first[0]
    assert [text.rpartition("STS-B, ")[2] for text in told] == ["seed 0", "seed 1"]
    assert both[0]["metrics"] != both[1]["metrics"]
    stored = sorted(path.name for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file())
    assert stored == ["lock", "lock", "result.json", "result.json"]
    again = runs(model, data, tmp_path / "other")
    assert facts(again[0]) == facts(first[0])


@pytest.mark.parametrize("change", ["weights", "data", "settings", "damage"])
def test_what_is_stored_is_not_taken_for_something_else(model, data, tmp_path, change):
    told = []
    runs(model, data, tmp_path / "out", told=told.append)
    settings = QUICK
    if change == "weights":
        add = AutoModelForSequenceClassification.from_pretrained(model)
        torch.nn.init.zeros_(add.bert.embeddings.token_type_embeddings.weight)
        add.bert.save_pretrained(model)
    elif change == "data":
        write_glue(data, "stsb", rows=20)
    elif change == "settings":
        settings = FineTuningSettings(epochs=1, batch_size=8, learning_rate=1e-3, device="cpu")
    else:
        path = next((tmp_path / "out").rglob("result.json"))
        path.write_text(path.read_text()[:-9])
    runs(model, data, tmp_path / "out", settings=settings, told=told.append)
    assert len(told) == 2


@pytest.mark.parametrize("compressed", [False, True])
def test_an_interrupted_run_goes_on_from_its_last_epoch(model, data, tmp_path, monkeypatch, compressed):
    if compressed:
        compress_checkpoint(model, tmp_path / "compressed", SMALL)
        model = tmp_path / "compressed"
    whole = runs(model, data, tmp_path / "whole")[0]
    step, done = Trainer.training_step, []

    def interrupted(self, *args, **kwargs):
        if len(done) == 4:  # three steps an epoch: in the second
            raise KeyboardInterrupt
        done.append(1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs(model, data, tmp_path / "out")
    half = next((tmp_path / "out").rglob("checkpoint-3")).with_name("checkpoint-5")
    half.mkdir()  # as if it had been killed while it wrote this one
    (half / "model.safetensors").write_bytes(b"")
    counted = []
    monkeypatch.setattr(Trainer, "training_step", lambda *args, **kw: (counted.append(1), step(*args, **kw))[1])
    resumed = runs(model, data, tmp_path / "out")[0]
    assert len(counted) == 3
    assert facts(resumed) == facts(whole)
    assert not list((tmp_path / "out").rglob("checkpoint-*"))


def test_a_run_that_another_process_makes_is_left_to_it(model, data, tmp_path):
    from filelock import FileLock

    run = plan_runs(open_subject(model), TaskData.load(TASKS["stsb"], data), QUICK, (0,), tmp_path)[0]
    run.folder.mkdir(parents=True)
    with FileLock(run.folder / "lock"), pytest.raises(RunTakenError, match="another process is making the run"):
        run.make()


def test_a_frozen_table_does_not_train(model, data, tmp_path):
    frozen = FineTuningSettings(epochs=1, batch_size=8, table="frozen", device="cpu")
    record = runs(model, data, tmp_path / "out", settings=frozen)[0]
    assert record["table_parameters_trained"] == 0
    assert record["identity"]["settings"]["table"] == "frozen"


def test_training_rows_are_the_same_for_all_seeds(model, data, tmp_path):
    few = FineTuningSettings(epochs=1, train_rows=5, device="cpu")
    assert {record["train_rows"] for record in runs(model, data, tmp_path, seeds=(0, 1), settings=few)} == {5}


def test_squad(model, tmp_path):
    data = write_squad(tmp_path / "data")
    settings = FineTuningSettings(epochs=1, batch_size=8, max_length=24, stride=6, device="cpu")
    record = runs(model, data, tmp_path / "out", "squad", settings=settings)[0]
    assert set(record["metrics"]) == {"exact_match", "f1"}
    assert record["rows"] == [12]
    assert record["train_rows"] > 12  # windows
    assert 0 <= record["metrics"]["exact_match"] <= record["metrics"]["f1"] <= 1


def test_mnli_is_measured_on_both_of_its_splits(model, tmp_path):
    random = np.random.default_rng(0)
    for split in ("train", "validation_matched", "validation_mismatched"):
        texts = {name: [sentence(random) for _ in range(9)] for name in ("premise", "hypothesis")}
        write_rows(tmp_path / "data", "mnli", split, {**texts, "label": [0, 1, 2] * 3})
    record = runs(model, tmp_path / "data", tmp_path / "out", "mnli", settings=FineTuningSettings(epochs=1))[0]
    assert set(record["metrics"]) == {"accuracy", "accuracy_mismatched"}
    assert record["rows"] == [9, 9]


def test_a_head_as_it_is(model, data, tmp_path):
    as_it_is = FineTuningSettings(epochs=0, device="cpu")
    with pytest.raises(ValueError, match=r"lacks weights that BertForSequenceClassification needs \(classifier"):
        runs(model, data, tmp_path / "out", "cola", settings=as_it_is)
    with_head = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    (data / "cola" / "train.parquet").unlink()
    subject, task = open_subject(model), TaskData.load(TASKS["cola"], data, train=False)
    tokenizer, rows = subject.tokenizer(), task.splits["validation"]
    with torch.no_grad():
        logits = with_head.eval()(**tokenizer(list(rows["sentence"]), padding=True, return_tensors="pt")).logits
        margins = logits[:, 1] - logits[:, 0]
        with_head.classifier.bias[1] -= margins.median()  # half of the rows get each label
    with_head.save_pretrained(model)
    subject = open_subject(model)
    record = made_runs(subject, task, as_it_is, (0,), tmp_path / "out", lambda text: None)[0]
    assert "steps" not in record
    expected = np.corrcoef(margins > margins.median(), rows["label"])[0, 1]  # what Matthews' is for two labels
    assert record["metrics"]["matthews_correlation"] == pytest.approx(expected)


def cola(data, **columns):
    rows = {"sentence": ["word1 word2"] * 8, "label": [0, 1] * 4} | columns
    for split in ("train", "validation"):
        write_rows(data, "cola", split, rows)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1, 2, 0] * 2}, "cola train of .*: the head has the labels 0 to 1 of cola, row 2 has 2"),
        ({"label": [0, -1] * 4}, "row 1 has -1: this split has no public labels"),
        ({"label": [0.5, 1.0] * 4}, "row 0 has 0.5"),
        ({"sentence": ["word1", None] * 4}, "column 'sentence' must hold texts, row 1 has None"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_training(model, tmp_path, columns, message):
    cola(tmp_path / "data", **columns)
    with pytest.raises(ValueError, match=message):
        runs(model, tmp_path / "data", tmp_path / "out", "cola")
    assert not (tmp_path / "out").exists()


def test_a_score_that_is_none_is_refused(model, data, tmp_path):
    texts = ["word1"] * 4
    columns = {"sentence1": texts, "sentence2": texts, "label": [1.0, float("nan"), 2.0, 3.0]}
    write_rows(data, "stsb", "validation", columns)
    with pytest.raises(ValueError, match="labels of stsb are finite numbers, row 1 has nan"):
        runs(model, data, tmp_path / "out")


def test_an_answer_that_is_none_is_refused(model, tmp_path):
    write_squad(tmp_path / "data")
    answers = [{"text": [], "answer_start": []}]
    columns = {"id": ["1"], "title": [""], "context": ["word1"], "question": ["word2"], "answers": answers}
    write_rows(tmp_path / "data", "squad", "validation", columns)
    with pytest.raises(ValueError, match=r"with an answer at least \(SQuAD v1.1\), row 0 has"):
        runs(model, tmp_path / "data", tmp_path / "out", "squad", settings=FineTuningSettings(max_length=24, stride=6))


def squad_rows(**columns):
    answers = [{"text": ["word3"], "answer_start": [6]}] * 2
    rows = {"id": ["1", "2"], "title": ["", ""], "context": ["word1 word3"] * 2, "question": ["word2"] * 2}
    return {**rows, "answers": answers, **columns}


@pytest.mark.parametrize(
    ("split", "columns", "message"),
    [
        ("validation", {"id": ["7", "7"]}, "squad validation of .*: ids must be distinct, row 1 has '7' again"),
        ("train", {"context": ["word1 word4"] * 2}, "row 0 has 6 for 'word3', and 'word4' is there"),
        ("train", {"answers": [{"text": ["word3"], "answer_start": [-1]}] * 2}, "row 0 has -1 for 'word3'"),
    ],
)
def test_squad_rows_that_do_not_fit_are_refused_before_training(model, tmp_path, split, columns, message):
    for name in ("train", "validation"):
        write_rows(tmp_path / "data", "squad", name, squad_rows(**(columns if name == split else {})))
    settings = FineTuningSettings(max_length=24, stride=6)
    with pytest.raises(ValueError, match=message):
        runs(model, tmp_path / "data", tmp_path / "out", "squad", settings=settings)
    assert not (tmp_path / "out").exists()


def test_a_model_that_has_diverged_is_told(model, data, tmp_path):
    add = AutoModelForSequenceClassification.from_pretrained(model)
    add.bert.embeddings.LayerNorm.weight.data.fill_(float("nan"))
    add.bert.save_pretrained(model)
    with pytest.raises(ValueError, match="predictions are not finite: training has diverged"):
        runs(model, data, tmp_path / "out", "cola")
    assert not list((tmp_path / "out").rglob("result.json"))


def test_another_models_tokenizer_is_refused(data, tmp_path):
    save_dense(tmp_path / "larger")
    add_tokenizer(tmp_path / "larger")
    vocabulary = tmp_path / "larger" / "tokenizer.json"
    content = json.loads(vocabulary.read_text())
    content["model"]["vocab"]["word1"] = 170
    vocabulary.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="gives token id 170, but its table has 160 rows: use the model's own"):
        runs(tmp_path / "larger", data, tmp_path / "out")
    save_dense(tmp_path / "bare")
    with pytest.raises(ValueError, match="tokenizer"):
        runs(tmp_path / "bare", data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_tasks_head_is_refused(model, data, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(model, num_labels=5).save_pretrained(model)
    write_config(model, architectures=["BertForSequenceClassification"])
    with pytest.raises(ValueError, match="is a BertForSequenceClassification with 5 labels, task cola has 2"):
        runs(model, data, tmp_path / "out", "cola")


def test_a_length_beyond_the_model_is_refused(model, data, tmp_path):
    with pytest.raises(ValueError, match="max_length must be at most 40 for this model, got 41"):
        runs(model, data, tmp_path / "out", settings=FineTuningSettings(max_length=41))
