"""What a Trainer publishes of a compressed model while it trains, and at the end, with a real Trainer."""

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from tests.hub_card_rules import check_card, front_matter
from tests.hub_server import HubServer
from tests.integration.test_push_model import Sentences
from transformers_lighttoken import push_compressed
from transformers_lighttoken.checkpoint.compressed import read_compressed

REPO = "alice/trained"


def trainer_for(hub: HubServer, folder: Path, output: Path, **changes: Any) -> Trainer:
    given: dict[str, Any] = {
        "output_dir": str(output), "max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "steps",
        "save_steps": 1, "report_to": [], "disable_tqdm": True, "use_cpu": True, "push_to_hub": True,
        "hub_model_id": REPO, "hub_token": hub.write_token, "hub_always_push": True, "learning_rate": 0.01,
    }  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    arguments = TrainingArguments(**given | changes)
    return Trainer(model, arguments, train_dataset=Sentences(), eval_dataset=Sentences(), processing_class=tokenizer)


def states(hub: HubServer, repo_id: str = REPO) -> list[dict[str, bytes]]:
    """The files of each commit that holds a model, oldest first."""
    repo = hub.store.repos[repo_id]
    commits = [{path: file.data for path, file in commit.files.items()} for commit in repo.history("main")]
    return [files for files in reversed(commits) if "model.safetensors" in files]


def keys_of(data: bytes, path: Path) -> set[str]:
    path.write_bytes(data)
    with safe_open(path, "pt") as file:
        return set(file.keys())


class TestWhileTraining:
    @pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
    def test_each_commit_is_the_exported_model_with_its_card(
        self, logged_in: HubServer, tiny: Path, tmp_path: Path, strategy: str
    ):
        trainer = trainer_for(logged_in, tiny, tmp_path / "output", hub_strategy=strategy)
        trainer.train()
        trainer._finish_current_push()
        pushes: Any = trainer.push_in_progress
        assert not [failure for job in pushes.jobs if (failure := job.exception())]
        assert states(logged_in)
        for files in states(logged_in):
            card = files["README.md"].decode()
            assert check_card(card) == ([], [])
            assert (front_matter(card) or {})["license"] == "mit"
            assert "compressed by\n[LightToken]" in card
            assert "AutoTokenizer" in card
            assert {"config.json", "tokenizer.json"} <= files.keys()
            assert not [key for key in keys_of(files["model.safetensors"], tmp_path / "x") if ".latents." in key]
        assert str(trainer.args.hub_strategy.value) == strategy  # pyright: ignore
        checkpoint = tmp_path / "output" / "checkpoint-2"
        (table,) = read_compressed(checkpoint).tables
        assert table.latents
        last = states(logged_in)[-1]
        trainer.save_model(str(tmp_path / "exported"), _internal_call=True)
        assert last["model.safetensors"] == (tmp_path / "exported" / "model.safetensors").read_bytes()
        pushed = [data for files in states(logged_in) for data in files.values()]
        assert not [data for data in pushed if logged_in.write_token.encode() in data]
        assert "training_args.bin" in last
        where = {"checkpoint": "last-checkpoint", "all_checkpoints": "checkpoint-2"}.get(strategy)
        folders = {path.split("/")[0] for path in last if "/" in path} - {"pictures"}
        assert (where in folders) if where else not folders
        if where:
            assert last[f"{where}/model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
            assert f"{where}/optimizer.pt" in last

    def test_without_a_licence_nothing_is_pushed_and_training_goes_on(
        self, logged_in: HubServer, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        (tiny / "README.md").unlink()
        trainer = trainer_for(logged_in, tiny, tmp_path / "output")
        trainer.train()
        assert states(logged_in) == []
        assert trainer.state.global_step == 2
        assert caplog.text.count("This save is not pushed") == 1
        assert "license is not known" in caplog.text
        trainer.push_to_hub(license="cc-by-4.0")
        (files,) = states(logged_in)
        assert (front_matter(files["README.md"].decode()) or {})["license"] == "cc-by-4.0"

    def test_dense_models_are_pushed_as_trainer_does_it(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        trainer = trainer_for(logged_in, tiny, tmp_path / "output")
        trainer.model.dequantize()  # pyright: ignore
        trainer.train()
        trainer._finish_current_push()
        assert states(logged_in)
        assert "README.md" not in states(logged_in)[-1]


class TestAtTheEnd:
    def test_the_token_that_is_given_is_used_for_the_card(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        logged_in.store.create_repo("bob/secret", private=True)
        logged_in.commit("bob/secret", {"README.md": b"---\nlicense: bsd\n---\n"})
        ours = "base_model_relation: quantized\ntags: [lighttoken, compressed]\n"
        (tiny / "README.md").write_text(f"---\nbase_model: bob/secret\n{ours}---\n")
        logged_in.store.create_repo("bob/trained")
        trainer = trainer_for(logged_in, tiny, tmp_path / "output", save_strategy="no", hub_model_id="bob/trained",
                              push_to_hub=False)  # fmt: skip
        trainer.hub_model_id, trainer.push_in_progress = "bob/trained", None
        logged_in.log.clear()
        trainer.push_to_hub(token=logged_in.other_token)
        (files,) = states(logged_in, "bob/trained")
        assert (front_matter(files["README.md"].decode()) or {})["license"] == "bsd"
        asked = [request for request in logged_in.log if "bob/" in request.path]
        assert asked
        assert {request.token for request in asked} <= {logged_in.other_token, None}  # None: the storage host

    def test_what_trainer_was_told_of_data_and_task_stays(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        trainer = trainer_for(logged_in, tiny, tmp_path / "output", save_strategy="no",
                              eval_strategy="steps", eval_steps=1)  # fmt: skip
        trainer.compute_metrics = lambda prediction: {"accuracy": 0.75}
        trainer.train()
        trainer.push_to_hub(dataset="GLUE [MRPC]", dataset_tags="nyu-mll/glue", dataset_args="mrpc",
                            tasks="text-classification")  # fmt: skip
        card = states(logged_in)[-1]["README.md"].decode()
        data = front_matter(card) or {}
        assert check_card(card) == ([], [])
        assert (data["datasets"], data["pipeline_tag"]) == (["nyu-mll/glue"], "text-classification")
        (result,) = data["model-index"][0]["results"]
        assert result["task"]["type"] == "text-classification"
        assert (result["dataset"]["type"], result["dataset"]["args"]) == ("nyu-mll/glue", "mrpc")
        assert result["metrics"] == [{"type": "accuracy", "value": 0.75, "name": "Accuracy"}]
        assert "Trained on: GLUE \\[MRPC\\]" in card
        assert "It achieves the following results on the evaluation set:\n\n- Loss: " in card
        assert "- Accuracy: 0.75\n" in card
        assert "- learning_rate: 0.01" in card

    def test_branch_of_the_training_arguments_is_in_the_card(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        trainer = trainer_for(logged_in, tiny, tmp_path / "output", save_strategy="no")
        logged_in.store.repos[REPO].branches["v2"] = logged_in.store.repos[REPO].branches["main"]
        trainer.push_to_hub(revision="v2")
        card = logged_in.snapshot(REPO).files["v2"]["README.md"].decode()
        assert 'from_pretrained("alice/trained", revision="v2")' in card


class TestTaskAndTags:
    def test_task_of_the_base_model_goes_with_its_head_alone(self, logged_in: HubServer, tiny: Path):
        model = AutoModel.from_pretrained(tiny)
        model.push_to_hub(REPO)
        assert (front_matter(states(logged_in)[-1]["README.md"].decode()) or {})["pipeline_tag"] == "feature-extraction"
        push_compressed(tiny, "alice/first")
        for source in (tiny, "alice/first"):
            AutoModelForSequenceClassification.from_pretrained(source, num_labels=2).push_to_hub(REPO)
            assert "pipeline_tag" not in (front_matter(states(logged_in)[-1]["README.md"].decode()) or {})

    def test_tags_of_the_model_and_of_the_user(self, logged_in: HubServer, tiny: Path):
        model = AutoModel.from_pretrained(tiny)
        model.add_model_tags(["trl", "arxiv:1810.04805"])
        model.push_to_hub(REPO, tags="mine")
        data = front_matter(states(logged_in)[-1]["README.md"].decode()) or {}
        assert data["tags"] == ["lighttoken", "compressed", "trl", "arxiv:1810.04805", "mine"]
