"""`model.push_to_hub` and `Trainer.push_to_hub` of compressed models write our card."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from torch.utils.data import Dataset
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from tests.checkpoints import add_tokenizer, save_dense
from tests.hub_card_rules import check_card, front_matter
from tests.hub_server import HubServer
from tests.integration.sample_model import upload
from transformers_lighttoken import LightTokenConfig, compress_model, compression_report, push_compressed
from transformers_lighttoken.hub.errors import HubError
from transformers_lighttoken.hub.pictures import BYTES_PICTURE

REPO = "alice/from-memory"


def card_of(hub: HubServer, repo_id: str = REPO, revision: str = "main") -> str:
    card = hub.snapshot(repo_id).files[revision]["README.md"].decode()
    assert check_card(card) == ([], [])
    assert card.count("compressed by\n[LightToken]") == 1
    return card


class TestModel:
    def test_model_from_a_folder(self, logged_in: HubServer, tiny: Path):
        model = AutoModel.from_pretrained(tiny)
        commit = model.push_to_hub(REPO, private=True, commit_message="From memory", tags=["mine"])
        there = logged_in.snapshot(REPO)
        assert (there.private, there.history["main"]) == (True, ("From memory", "initial commit"))
        assert commit.oid == there.heads["main"]
        assert set(there.files["main"]) >= {"config.json", "model.safetensors", BYTES_PICTURE}
        data = front_matter(card_of(logged_in)) or {}
        assert (data["license"], data["tags"]) == ("mit", ["lighttoken", "compressed", "mine"])
        before = logged_in.snapshot(REPO)
        model.push_to_hub(REPO, tags=["mine"])
        assert logged_in.snapshot(REPO) == before

    def test_tokenizer_pushed_after_it_leaves_the_card(self, logged_in: HubServer, tiny: Path):
        AutoModel.from_pretrained(tiny).push_to_hub(REPO)
        card = card_of(logged_in)
        assert "AutoTokenizer" not in card
        AutoTokenizer.from_pretrained(tiny).push_to_hub(REPO)
        assert card_of(logged_in) == card
        AutoModel.from_pretrained(tiny).push_to_hub(REPO)
        assert "AutoTokenizer" in card_of(logged_in)
        assert logged_in.snapshot(REPO).files["main"].keys() >= {"tokenizer.json", "model.safetensors"}

    def test_model_from_a_compressed_repository(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, "acme/first", base_model="org/base")
        AutoModel.from_pretrained("acme/first").push_to_hub(REPO)
        data = front_matter(card_of(logged_in)) or {}
        assert (data["base_model"], data["license"]) == ("org/base", "mit")

    def test_a_repository_is_never_its_own_base(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO)
        assert "base_model" not in (front_matter(card_of(logged_in)) or {})
        AutoModel.from_pretrained(REPO).push_to_hub(REPO)
        assert "base_model" not in (front_matter(card_of(logged_in)) or {})

    def test_model_that_was_compressed_in_memory(self, logged_in: HubServer, tmp_path: Path):
        save_dense(tmp_path / "dense")
        add_tokenizer(tmp_path / "dense")
        (tmp_path / "dense" / "README.md").write_text("---\nlicense: bsd\n---\n")
        upload(HfApi(endpoint=logged_in.url), tmp_path / "dense", "acme/base")
        config = LightTokenConfig(code_bits=8, tiers="equal", metric="plain")
        AutoModel.from_pretrained("acme/base", quantization_config=config).push_to_hub(REPO)
        card = card_of(logged_in)
        data = front_matter(card) or {}
        assert (data["base_model"], data["license"]) == ("acme/base", "bsd")
        assert "was not measured for this state of the model" in card

    def test_licence_has_to_be_known(self, logged_in: HubServer, tiny: Path):
        (tiny / "README.md").unlink()
        model = AutoModel.from_pretrained(tiny)
        with pytest.raises(ValueError, match="license is not known"):
            model.push_to_hub(REPO)
        assert logged_in.snapshot(REPO).heads == {}
        model.push_to_hub(REPO, license="apache-2.0", base_model="org/base")
        data = front_matter(card_of(logged_in)) or {}
        assert (data["license"], data["base_model"]) == ("apache-2.0", "org/base")
        with pytest.raises(TypeError, match="licence"):
            model.push_to_hub(REPO, licence="mit")

    def test_saving_with_a_push_sends_what_was_saved_under_our_card(self, logged_in: HubServer, tiny: Path):
        model = AutoModel.from_pretrained(tiny)
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        state["encoder.layer.0.output.dense.bias"] += 1
        folder = tiny.parent / "saved"
        folder.mkdir()
        (folder / "notes.txt").write_text("not to be published\n")
        given = {"repo_id": REPO, "private": True, "commit_message": "Saved", "token": logged_in.write_token}
        model.save_pretrained(folder, True, state, push_to_hub=True, **given)
        there = logged_in.snapshot(REPO)
        assert (there.private, there.history["main"]) == (True, ("Saved", "initial commit"))
        assert (front_matter(card_of(logged_in)) or {})["license"] == "mit"
        files = there.files["main"]
        assert "notes.txt" not in files
        assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
        saved = AutoModel.from_pretrained(folder).state_dict()["encoder.layer.0.output.dense.bias"]
        assert torch.equal(saved, state["encoder.layer.0.output.dense.bias"])
        assert not (folder / "README.md").exists()

    def test_saving_with_a_push_is_named_after_the_folder(self, logged_in: HubServer, tiny: Path):
        model = AutoModel.from_pretrained(tiny)
        model.save_pretrained(tiny.parent / "named", push_to_hub=True, create_pr=False)
        assert "compressed by\n[LightToken]" in card_of(logged_in, "alice/named")
        model.save_pretrained(tiny.parent / "not-pushed", push_to_hub=False)
        assert logged_in.snapshot("alice/not-pushed").heads == {}

    def test_dequantized_model_pushes_as_transformers_does(self, logged_in: HubServer, tiny: Path):
        model = AutoModel.from_pretrained(tiny)
        model.dequantize().push_to_hub(REPO)
        assert "LightToken" not in logged_in.snapshot(REPO).files["main"]["README.md"].decode()

    def test_errors_are_ours(self, logged_in: HubServer, tiny: Path):
        with pytest.raises(HubError, match="the token may only read"):
            AutoModel.from_pretrained(tiny).push_to_hub(REPO, token=logged_in.read_token)


class Sentences(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.arange(4, 12) + index, "labels": torch.tensor(index % 2)}


@pytest.fixture
def trainer(logged_in: HubServer, tiny: Path, tmp_path: Path) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "output"),
        max_steps=1,
        per_device_train_batch_size=4,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        push_to_hub=True,
        hub_model_id="alice/trained",
        hub_token=logged_in.write_token,
    )
    model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2)
    return Trainer(model, arguments, train_dataset=Sentences())


class TestTrainer:
    def test_card_is_ours_with_the_training_in_it(self, logged_in: HubServer, trainer: Trainer):
        trainer.train()
        trainer.push_to_hub(language="de", tags="small")
        card = card_of(logged_in, "alice/trained")
        data = front_matter(card) or {}
        assert (data["license"], data["language"]) == ("mit", "de")
        assert data["tags"] == ["lighttoken", "compressed", "small"]
        assert "## Training after compression" in card
        assert "- learning_rate: 5e-05" in card
        assert "AutoModelForSequenceClassification" in card
        (table,) = compression_report(str(trainer.args.output_dir)).tables
        assert ("## Measured fidelity" in card) == (table.relative_error is not None)  # known where nothing was trained
        assert "pipeline_tag" not in data  # that of the base model; the head is another one
        files = logged_in.snapshot("alice/trained").files["main"]
        assert files.keys() >= {BYTES_PICTURE, "model.safetensors"}

    def test_trainers_with_cards_of_their_own(self, logged_in: HubServer, trainer: Trainer):
        class OwnCard(Trainer):
            def create_model_card(self, model_name: str | None = None, tags: str | None = None) -> None:  # pyright: ignore
                card = (
                    f"---\nlibrary_name: own\n---\n\n# Own card\n\n## Training procedure\n\nTrained as {model_name}.\n"
                )
                Path(str(self.args.output_dir), "README.md").write_text(card)

        class Deeper(OwnCard):
            def create_model_card(self, *args: str, **kwargs: str) -> None:  # pyright: ignore
                super().create_model_card(*args, **kwargs)
                path = Path(str(self.args.output_dir), "README.md")
                path.write_text(path.read_text() + "And deeper.\n")

        trainer.__class__ = Deeper
        trainer.push_to_hub(tags="small")
        card = card_of(logged_in, "alice/trained")
        assert "Own card" not in card
        assert "## Training after compression\n\nTrained as trained.\nAnd deeper." in card
        data = front_matter(card) or {}
        assert (data["library_name"], data["tags"]) == ("transformers", ["lighttoken", "compressed", "small"])
        assert data["language"] == ["en", "no"]  # of the base model, and not the first argument of an own method

    def test_run_without_the_hub_goes_on_where_our_card_cannot_be_made(
        self, tiny: Path, trainer: Trainer, caplog: pytest.LogCaptureFixture
    ):
        (tiny / "README.md").unlink()
        trainer.hub_model_id = None
        trainer.save_model(_internal_call=True)
        trainer.create_model_card()
        assert "license is not known" in caplog.text
        assert "- learning_rate: 5e-05" in Path(str(trainer.args.output_dir), "README.md").read_text()

    def test_dense_models_keep_the_card_of_the_trainer(self, logged_in: HubServer, tiny: Path, trainer: Trainer):
        trainer.model.dequantize()  # pyright: ignore
        trainer.push_to_hub()
        card = logged_in.snapshot("alice/trained").files["main"]["README.md"].decode()
        assert "LightToken" not in card
        assert "- learning_rate: 5e-05" in card

    def test_licence_has_to_be_known(self, logged_in: HubServer, tiny: Path, trainer: Trainer):
        (tiny / "README.md").unlink()
        with pytest.raises(ValueError, match="license is not known"):
            trainer.push_to_hub()
        assert "model.safetensors" not in logged_in.snapshot("alice/trained").files["main"]
        trainer.push_to_hub(license="cc-by-4.0")
        assert (front_matter(card_of(logged_in, "alice/trained")) or {})["license"] == "cc-by-4.0"


def test_compress_model_then_push(logged_in: HubServer, tmp_path: Path):
    save_dense(tmp_path / "dense")
    (tmp_path / "dense" / "README.md").write_text("---\nlicense: mit\n---\n")
    model = AutoModel.from_pretrained(tmp_path / "dense")
    compress_model(model, LightTokenConfig(code_bits=8, tiers="equal", metric="plain"))
    model.push_to_hub(REPO)
    assert (front_matter(card_of(logged_in)) or {})["license"] == "mit"
