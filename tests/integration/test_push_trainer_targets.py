"""What a Trainer's pushes do with what is in the repository already, with a real Trainer."""

from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from tests.hub_card_rules import front_matter
from tests.hub_server import HubServer
from tests.integration.test_push_model import Sentences
from tests.integration.test_push_targets import evaluation_of
from tests.integration.test_push_trainer import REPO, states, trainer_for
from transformers_lighttoken import push_compressed
from transformers_lighttoken.checkpoint.source import SourceError
from transformers_lighttoken.hub.errors import HubError


class TestWhatIsThere:
    def pushing(self, hub: HubServer, tiny: Path, tmp_path: Path, **changes: Any) -> Trainer:
        return trainer_for(hub, tiny, tmp_path / "output", save_strategy="no", push_to_hub=False, **changes)

    def test_another_model_is_not_replaced(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        logged_in.store.create_repo(REPO)
        logged_in.commit(REPO, {"model.safetensors": b"dense", "config.json": b"{}"})
        before = logged_in.snapshot(REPO)
        with pytest.raises(ValueError, match="alice/trained holds the weights of a model on 'main', and no config"):
            self.pushing(logged_in, tiny, tmp_path).push_to_hub()
        assert logged_in.snapshot(REPO) == before

    def test_another_model_is_not_replaced_during_training(
        self, logged_in: HubServer, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        logged_in.store.create_repo(REPO)
        logged_in.commit(REPO, {"model.safetensors": b"dense", "config.json": b"{}"})
        before = logged_in.snapshot(REPO)
        trainer = trainer_for(logged_in, tiny, tmp_path / "output")
        trainer.train()
        trainer._finish_current_push()
        assert logged_in.snapshot(REPO) == before
        assert "holds the weights of a model on 'main'" in caplog.text

    def test_public_repository_is_not_pushed_to_as_private(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        logged_in.store.create_repo(REPO)
        before = logged_in.snapshot(REPO)
        with pytest.raises(ValueError, match="private=True, but alice/trained is there already and public"):
            self.pushing(logged_in, tiny, tmp_path).push_to_hub(private=True)
        with pytest.raises(ValueError, match="private=True, but alice/trained is there already and public"):
            self.pushing(logged_in, tiny, tmp_path, hub_private_repo=True).push_to_hub()
        assert logged_in.snapshot(REPO) == before

    def test_output_folder_of_another_model_lends_no_licence(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        (tmp_path / "output").mkdir()
        ours = "base_model_relation: quantized\ntags: [lighttoken]\n"
        card = f"---\nlicense: cc-by-nc-4.0\nbase_model: org/other\n{ours}---\n"
        (tmp_path / "output" / "README.md").write_text(card)
        (tiny / "README.md").unlink()
        trainer = self.pushing(logged_in, tiny, tmp_path)
        with pytest.raises(ValueError, match="license is not known"):
            trainer.push_to_hub()
        trainer.push_to_hub(license="mit")
        data = front_matter(states(logged_in)[-1]["README.md"].decode()) or {}
        assert data["license"] == "mit"
        assert "base_model" not in data
        trainer.push_to_hub()  # of the card that it wrote itself
        assert (front_matter(states(logged_in)[-1]["README.md"].decode()) or {})["license"] == "mit"

    def test_evaluations_of_the_same_weights_stay(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        trainer = self.pushing(logged_in, tiny, tmp_path)
        trainer.push_to_hub()
        output = tmp_path / "output"
        push_compressed(output, REPO, evaluation=evaluation_of(output))
        trainer.push_to_hub(tags=["again"])
        assert "lighttoken_evaluation.json" in states(logged_in)[-1]
        assert "| STS-B | spearman | 0.8500 |" in states(logged_in)[-1]["README.md"].decode()

    def test_new_branch_while_training(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        trainer = trainer_for(logged_in, tiny, tmp_path / "output", hub_revision="run1")
        trainer.train()
        trainer._finish_current_push()
        assert "model.safetensors" in logged_in.snapshot(REPO).files["run1"]
        assert "model.safetensors" not in logged_in.snapshot(REPO).files["main"]

    def test_name_of_the_folder_that_is_no_repository(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        trainer = trainer_for(logged_in, tiny, tmp_path / "my model (v1)", push_to_hub=False, hub_model_id=None)
        with pytest.raises(ValueError, match="repo_id must be a repository on the Hub"):
            trainer.push_to_hub()

    def test_token_stays_out_beside_an_adapter(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        peft = pytest.importorskip("peft")
        trainer = trainer_for(logged_in, tiny, tmp_path / "output", hub_strategy="checkpoint")
        config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
        wrapped: Any = peft.get_peft_model(trainer.model, config)
        trainer = Trainer(wrapped, trainer.args, train_dataset=Sentences(), processing_class=trainer.processing_class)
        trainer.train()
        trainer._finish_current_push()
        trainer.push_to_hub()
        commits = [commit.files for commit in logged_in.store.repos[REPO].history("main")]
        assert any("training_args.bin" in files for files in commits)
        for files in commits:
            assert not [path for path, file in files.items() if logged_in.write_token.encode() in file.data]

    def test_former_shards_and_pictures_go(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        push_compressed(tiny, REPO)
        there = logged_in.snapshot(REPO).files["main"]
        logged_in.commit(REPO, {"model-00001-of-00002.safetensors": b"shard", "notes.txt": b"stays"})
        trainer = self.pushing(logged_in, tiny, tmp_path)
        trainer.train()
        trainer.push_to_hub(commit_message="Trained")
        after = logged_in.snapshot(REPO)
        assert after.history["main"][0] == "Trained"
        assert len(after.history["main"]) == 4
        assert there.keys() - after.files["main"].keys() == {"pictures/lighttoken_cosines.png", "vocab.txt"}
        assert after.files["main"]["notes.txt"] == b"stays"
        assert "model-00001-of-00002.safetensors" not in after.files["main"]
        assert not (tmp_path / "output" / "pictures" / "lighttoken_cosines.png").exists()

    def test_branch_is_created_and_the_push_may_go_on_behind(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        trainer = self.pushing(logged_in, tiny, tmp_path)
        future: Any = trainer.push_to_hub(revision="v2", blocking=False)
        assert future.result().oid == logged_in.snapshot(REPO).heads["v2"]
        assert "model.safetensors" in logged_in.snapshot(REPO).files["v2"]
        assert "model.safetensors" not in logged_in.snapshot(REPO).files["main"]

    def test_a_push_waits_for_the_one_that_goes_on_behind(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        trainer = self.pushing(logged_in, tiny, tmp_path)
        first: Any = trainer.push_to_hub(blocking=False, commit_message="First")
        second: Any = trainer.push_to_hub(blocking=False, commit_message="Second", tags=["second"])
        assert first.done()
        second.result()
        assert logged_in.snapshot(REPO).history["main"][:2] == ("Second", "First")

    def test_errors_are_ours(self, logged_in: HubServer, tiny: Path, tmp_path: Path, no_waiting):
        trainer = self.pushing(logged_in, tiny, tmp_path)
        with pytest.raises(HubError, match=r"could not write, the token may only read"):
            trainer.push_to_hub(token=logged_in.read_token)
        logged_in.inject("commit", status=503, times=None)
        with pytest.raises(HubError, match=r"could not commit the files, the Hub itself is in trouble \(HTTP 503\)"):
            trainer.push_to_hub()
        logged_in.clear_faults()
        trainer.push_to_hub()
        assert len(states(logged_in)) == 1

    def test_checkpoint_of_the_training_is_not_for_push_compressed(
        self, logged_in: HubServer, tiny: Path, tmp_path: Path
    ):
        trainer_for(logged_in, tiny, tmp_path / "output", push_to_hub=False).train()
        with pytest.raises(SourceError, match=r"checkpoint-2 is the checkpoint of a training run, .* latents"):
            push_compressed(tmp_path / "output" / "checkpoint-2", REPO, license="mit")
        assert logged_in.snapshot(REPO).heads == {}

    def test_licence_of_the_users_own(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        trainer = self.pushing(logged_in, tiny, tmp_path)
        trainer.push_to_hub(license="other", license_name="mine", license_link="https://example.org/licence")
        data = front_matter(states(logged_in)[-1]["README.md"].decode()) or {}
        assert (data["license"], data["license_name"]) == ("other", "mine")
        assert data["license_link"] == "https://example.org/licence"

    def test_push_to_hub_of_a_subclass_is_called(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        told = []

        class Telling(Trainer):
            def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
                told.append(kwargs)
                return super().push_to_hub(*args, **kwargs)

        trainer = self.pushing(logged_in, tiny, tmp_path)
        trainer.__class__ = Telling
        trainer.save_model(str(tmp_path / "saved"))
        trainer.push_to_hub(license="mit")
        assert told == [{"license": "mit"}]
        assert len(states(logged_in)) == 1
