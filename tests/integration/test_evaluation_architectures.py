"""Models of many kinds are evaluated as they are: with their own weights, labels, padding, positions and pooling."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from tests.checkpoints import SMALL, add_tokenizer, read_json, write_config
from tests.tiny_models import ARCHITECTURES
from tests.unit.evaluation.fine_tuning.samples import write_glue, write_rows, write_squad
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.evaluation.evaluate import evaluate_checkpoint
from transformers_lighttoken.evaluation.fine_tuning.settings import FineTuningSettings
from transformers_lighttoken.evaluation.fine_tuning.tasks import TASKS
from transformers_lighttoken.evaluation.fine_tuning.training import load_for_task
from transformers_lighttoken.evaluation.subject import open_subject
from transformers_lighttoken.evaluation.zero_shot.encoders import sentence_encoder
from transformers_lighttoken.modeling.positions import longest_input, longest_sequence

QUICK = FineTuningSettings(epochs=1, batch_size=8, max_length=32, stride=4, device="cpu")
FIELDS: dict[str, dict[str, Any]] = {
    "bart": {"eos_token_id": 4, "max_position_embeddings": 64},
    "t5": {"eos_token_id": 4, "pad_token_id": 1, "decoder_start_token_id": 1},
}
SENTENCES = ["word7 word8", "word12 word13 word14 word15 word16", "word9"]


def save(folder: Path, name: str, **fields: Any) -> Path:
    ARCHITECTURES[name].build(**FIELDS.get(name, {}), **fields).save_pretrained(folder)
    add_tokenizer(folder)
    return folder


@pytest.mark.parametrize("name", ["llama-tied", "qwen3", "gpt2", "bart", "bert-mlm", "xlnet"])
def test_a_head_of_another_class_sits_on_the_weights_of_the_checkpoint(name: str, tmp_path: Path) -> None:
    dense = save(tmp_path / "dense", name)
    compress_checkpoint(dense, tmp_path / "compressed", SMALL)
    stored = list(load_file(dense / "model.safetensors").values())
    for auto_class in (AutoModelForQuestionAnswering, AutoModelForSequenceClassification):
        model = open_subject(dense).model(auto_class)
        body = [value for key, value in model.base_model.named_parameters() if "pooler" not in key]
        assert body
        assert all(any(torch.equal(value, other) for other in stored) for value in body if value.ndim > 1)
        small = open_subject(tmp_path / "compressed").model(auto_class)
        own = {key: value for key, value in small.base_model.named_parameters() if "pooler" not in key}
        kept = [key for key in own if own[key].ndim > 1 and "latents" not in key and "exact_rows" not in key]
        assert kept
        assert all(any(torch.equal(own[key], other) for other in stored) for key in kept)


def test_a_checkpoint_without_its_layers_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "model", "bert-mlm")
    write_config(tmp_path / "model", num_hidden_layers=2)
    with pytest.raises(
        ValueError, match=r"lacks weights that BertForSequenceClassification needs \(bert.encoder.layer.1"
    ):
        open_subject(tmp_path / "model").model(AutoModelForSequenceClassification)


@pytest.mark.parametrize("name", ["bart", "t5", "llama-tied", "xlnet"])
def test_classification_and_question_answering(name: str, tmp_path: Path) -> None:
    data = write_squad(write_glue(tmp_path / "data", "cola"))
    dense = save(tmp_path / "dense", name)
    compress_checkpoint(dense, tmp_path / "compressed", SMALL)
    found = evaluate_checkpoint(
        tmp_path / "compressed", ["cola", "squad"], data=data, baseline=dense, settings=QUICK, output=tmp_path / "out"
    )
    assert [entry["metric"] for entry in found["results"]] == ["matthews_correlation", "exact_match", "f1"]
    assert all({"value", "dense"} <= set(entry) for entry in found["results"])


@pytest.mark.parametrize(("name", "fields"), [("llama-tied", {"pad_token_id": 0}), ("xlnet", {}), ("gpt2", {})])
def test_padding_changes_no_prediction(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    subject = open_subject(save(tmp_path / "model", name, **fields))
    tokenizer = subject.tokenizer()
    model = load_for_task(subject, TASKS["cola"], QUICK, tokenizer, 0).eval()

    def logits(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            return model(**batch).logits

    together = logits(SENTENCES)
    for number, sentence in enumerate(SENTENCES):
        torch.testing.assert_close(together[number], logits([sentence])[0], rtol=0, atol=1e-5)


def test_positions(tmp_path: Path) -> None:
    expected = {"bert": 40, "roberta-mlm": 38, "mpnet-mlm": 38, "xlnet": None, "gpt2": 40, "t5": None}
    assert {name: longest_sequence(ARCHITECTURES[name].build()) for name in expected} == expected
    subject = open_subject(save(tmp_path / "model", "roberta-mlm"))
    assert longest_input(ARCHITECTURES["roberta-mlm"].build(), subject.tokenizer()) == 38
    long = {"sentence1": ["word9 " * 60] * 4, "sentence2": ["word8 " * 50] * 4, "label": [0.0, 1.0, 2.0, 3.0]}
    write_rows(tmp_path / "data", "stsb", "train", long)
    write_rows(tmp_path / "data", "stsb", "validation", long)
    settings = FineTuningSettings(epochs=1, device="cpu")
    tasks = ["stsb", "stsb-zero-shot"]
    found = evaluate_checkpoint(
        subject.folder, tasks, data=tmp_path / "data", settings=settings, output=tmp_path / "out"
    )
    assert found["settings"]["stsb"]["max_length"] == 38


class TestSentenceEncoders:
    @pytest.mark.parametrize("name", ["t5-encoder", "t5", "bart", "bert"])
    def test_the_mean_of_the_encoders_hidden_states(self, name: str, tmp_path: Path) -> None:
        subject = open_subject(save(tmp_path / "model", name))
        embedded = sentence_encoder(subject, "cpu")(SENTENCES)
        model = ARCHITECTURES[name].build(**FIELDS.get(name, {})).eval()
        encoder = model.get_encoder() if name in ("t5", "bart") else model
        for sentence, embedding in zip(SENTENCES, embedded, strict=True):
            ids = subject.tokenizer()(sentence, return_tensors="pt").input_ids
            with torch.no_grad():
                expected = encoder(input_ids=ids).last_hidden_state[0].mean(dim=0)
            torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("compressed", [False, True])
    def test_pooling_is_that_of_modules_json(self, compressed: bool, tmp_path: Path) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        save(tmp_path / "bert", "bert")
        module = Transformer(str(tmp_path / "bert"))
        pooling = Pooling(32, pooling_mode="cls")
        SentenceTransformer(modules=[module, pooling], device="cpu").save(str(tmp_path / "dense"))
        folder = tmp_path / "dense"
        if compressed:
            folder = tmp_path / "compressed"
            compress_checkpoint(tmp_path / "dense", folder, SMALL)
        subject = open_subject(folder)
        model = AutoModel.from_pretrained(folder).eval()
        embedded = sentence_encoder(subject, "cpu")(SENTENCES)
        for sentence, embedding in zip(SENTENCES, embedded, strict=True):
            with torch.no_grad():
                expected = model(**subject.tokenizer()(sentence, return_tensors="pt")).last_hidden_state[0, 0]
            torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-5)

    def test_another_models_tokenizer_is_refused_with_modules_json_too(self, tmp_path: Path) -> None:
        from sentence_transformers import SentenceTransformer

        SentenceTransformer(str(save(tmp_path / "bert", "bert")), device="cpu").save(str(tmp_path / "model"))
        vocabulary = tmp_path / "model" / "tokenizer.json"
        content = read_json(vocabulary)
        content["model"]["vocab"]["word9"] = 170
        vocabulary.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="tokenizer gives token id 170, but the model has 160 tokens"):
            sentence_encoder(open_subject(tmp_path / "model"), "cpu")(SENTENCES)
