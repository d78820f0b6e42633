"""Measured results of a push: of which state of the model they are, and how they complete each other."""

import json
from pathlib import Path

import pytest
from transformers import AutoModel, AutoTokenizer

from tests.checkpoints import read_json
from tests.hub_server import HubServer
from tests.integration.test_push_targets import REPO, card_of, evaluation_of, files_of
from tests.push_faults import change_weights
from transformers_lighttoken import push_compressed
from transformers_lighttoken.hub.results import FILE_NAME


class TestResults:
    def test_they_stay_while_the_model_is_the_same(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO, evaluation=evaluation_of(tiny))
        before = logged_in.snapshot(REPO)
        push_compressed(tiny, REPO)
        assert logged_in.snapshot(REPO) == before
        (tiny / "notes.txt").write_text("new\n")
        push_compressed(tiny, REPO)
        files = files_of(logged_in)
        assert files[FILE_NAME] == before.files["main"][FILE_NAME]
        assert "| STS-B | spearman | 0.8500 |" in files["README.md"].decode()

    def test_other_dense_weights_under_the_same_digest(self, logged_in: HubServer, tiny: Path, caplog):
        evaluation = evaluation_of(tiny)
        push_compressed(tiny, REPO, evaluation=evaluation)
        digest = read_json(tiny / "config.json")["quantization_config"]["digest"]
        change_weights(tiny)
        assert read_json(tiny / "config.json")["quantization_config"]["digest"] == digest
        with pytest.raises(ValueError, match="is of another model, or another state of it"):
            push_compressed(tiny, REPO, evaluation={**evaluation, "digest": digest})
        with pytest.raises(ValueError, match="it has no identity. Evaluate this checkpoint as it is now"):
            push_compressed(tiny, REPO, evaluation={"digest": digest, "results": evaluation["results"]})
        push_compressed(tiny, REPO)
        assert FILE_NAME not in files_of(logged_in)
        assert "STS-B" not in card_of(logged_in)[1]
        assert "lighttoken_evaluation.json is of another state of the model, and is not published" in caplog.text

    def test_a_second_evaluation_completes_the_first(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO, evaluation=evaluation_of(tiny))
        result = {"task": "MRPC", "metric": "f1", "value": 0.5}
        push_compressed(tiny, REPO, evaluation=evaluation_of(tiny) | {"results": [result]})
        again = {"task": "STS-B", "metric": "spearman", "value": 0.75}
        push_compressed(tiny, REPO, evaluation=evaluation_of(tiny) | {"results": [again]})
        assert json.loads(files_of(logged_in)[FILE_NAME])["results"] == [again, result]

    def test_those_in_the_folder_and_those_there_complete_each_other(self, logged_in: HubServer, tiny: Path):
        own = evaluation_of(tiny)
        result = {"task": "MRPC", "metric": "f1", "value": 0.5}
        push_compressed(tiny, REPO, evaluation=own | {"results": [*own["results"], result]})
        (tiny / FILE_NAME).write_text(json.dumps(own))
        push_compressed(tiny, REPO, tags=["again"])
        assert json.loads(files_of(logged_in)[FILE_NAME])["results"] == [*own["results"], result]

    def test_the_dense_model_beside_them_is_the_one_that_was_compressed(self, logged_in: HubServer, tiny: Path):
        evaluation = evaluation_of(tiny)
        evaluation["results"][0]["dense"] = 0.9
        unsure = "It was not checked that the dense model is the very one\nthat was compressed."
        push_compressed(tiny, REPO, evaluation=evaluation)
        assert unsure in card_of(logged_in)[1]
        push_compressed(tiny, REPO, evaluation=evaluation | {"baseline_is_source": True})
        assert "| STS-B | spearman | 0.8500 | 0.9000 | 94.4 % |" in card_of(logged_in)[1]
        assert unsure not in card_of(logged_in)[1]
        push_compressed(tiny, REPO)
        assert unsure not in card_of(logged_in)[1]

    def test_the_recipe_tells_of_weights_that_were_trained_since(self, logged_in: HubServer, tiny: Path):
        AutoModel.from_pretrained(tiny).save_pretrained(tiny)
        push_compressed(tiny, REPO)
        card = card_of(logged_in)[1]
        assert "lighttoken compress " in card
        assert "After this command" not in card
        change_weights(tiny)
        push_compressed(tiny, REPO)
        assert (
            "After this command other weights of the model are not the same any more: trained, cast, added or left out."
            in card_of(logged_in)[1]
        )

    def test_push_from_memory_keeps_those_of_the_same_files(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        model = AutoModel.from_pretrained(tiny)
        model.save_pretrained(tmp_path / "saved")
        AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "saved")
        push_compressed(tmp_path / "saved", REPO, license="mit", evaluation=evaluation_of(tmp_path / "saved"))
        published = files_of(logged_in)[FILE_NAME]
        model.push_to_hub(REPO)
        assert files_of(logged_in)[FILE_NAME] == published
        assert "| STS-B | spearman | 0.8500 |" in card_of(logged_in)[1]
        model.encoder.layer[0].output.dense.weight.data += 1
        model.push_to_hub(REPO)
        assert FILE_NAME not in files_of(logged_in)

    def test_damaged_on_the_way_is_no_reason_to_drop_them(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO, evaluation=evaluation_of(tiny))
        before = logged_in.snapshot(REPO)
        logged_in.inject("download", mode="corrupt", path=FILE_NAME)
        with pytest.raises(RuntimeError, match="could not read lighttoken_evaluation.json, what arrived is damaged"):
            push_compressed(tiny, REPO)
        push_compressed(tiny, REPO)
        assert logged_in.snapshot(REPO) == before
