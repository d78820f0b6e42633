"""What the card of a push inherits from its base model: licence, language, task."""

import json
from pathlib import Path

from tests.checkpoints import read_json, write_config
from tests.hub_card_rules import front_matter
from tests.hub_server import HubServer
from tests.integration.test_push import REPO, evaluation_of
from transformers_lighttoken import push_compressed


class TestInheritance:
    def test_card_of_the_base_model_on_the_hub(self, logged_in: HubServer, tiny: Path):
        (tiny / "README.md").unlink()
        base = "---\nlicense: other\nlicense_name: my-terms\nlicense_link: LICENSE.md\nlanguage: de\n---\n"
        logged_in.store.create_repo("bob/base", private=False)
        logged_in.commit("bob/base", {"README.md": base.encode()})
        push_compressed(tiny, REPO, base_model="bob/base")
        data = front_matter(logged_in.snapshot(REPO).files["main"]["README.md"].decode())
        assert data == {
            "library_name": "transformers",
            "license": "other",
            "license_name": "my-terms",
            "license_link": f"{logged_in.url}/bob/base/blob/main/LICENSE.md",
            "language": "de",
            "base_model": "bob/base",
            "base_model_relation": "quantized",
            "tags": ["lighttoken", "compressed"],
        }

    def test_card_at_the_recorded_commit(self, logged_in: HubServer, tiny: Path):
        (tiny / "README.md").unlink()
        logged_in.store.create_repo("bob/base")
        commit = logged_in.commit("bob/base", {"README.md": b"---\nlicense: mit\n---\n"})
        logged_in.commit("bob/base", {"README.md": b"---\nlicense: gpl\n---\n"})
        quantization = read_json(tiny / "config.json")["quantization_config"]
        quantization["provenance"] |= {"source": "bob/base", "revision": commit}
        write_config(tiny, quantization_config=quantization)
        push_compressed(tiny, REPO)
        card = logged_in.snapshot(REPO).files["main"]["README.md"].decode()
        data = front_matter(card) or {}
        assert (data["license"], data["base_model"]) == ("mit", "bob/base")
        assert f"lighttoken compress bob/base OUTPUT --code-bits 8 --seed 0 --revision {commit}" in card

    def test_what_the_user_gives_goes_first(self, logged_in: HubServer, tiny: Path):
        wishes = {"license": "apache-2.0", "language": "fr", "tags": ["mine"]}
        push_compressed(tiny, REPO, **wishes)
        card = logged_in.snapshot(REPO).files["main"]["README.md"].decode()
        data = front_matter(card) or {}
        assert (data["license"], data["language"], data["tags"]) == (
            "apache-2.0",
            "fr",
            ["lighttoken", "compressed", "mine"],
        )
        assert "that of the base model" not in card

    def test_evaluation_is_published_and_indexed(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        result = {"task": "STS-B", "metric": "spearman", "value": 0.8512345678, "dense": 0.86, "setting": "zero-shot"}
        result |= {"task_type": "sentence-similarity", "dataset": "nyu-mll/glue", "dataset_config": "stsb"}
        evaluation = evaluation_of(tiny, result, {"task": "own", "metric": "f1", "value": 1})
        (tmp_path / "stsb.json").write_text(json.dumps(evaluation))
        push_compressed(tiny, REPO, evaluation=[tmp_path / "stsb.json"])
        files = logged_in.snapshot(REPO).files["main"]
        card = files["README.md"].decode()
        published = json.loads(files["lighttoken_evaluation.json"])
        assert published["identity"] == evaluation["identity"]
        assert published["digest"] == read_json(tiny / "config.json")["quantization_config"]["digest"]
        assert [entry["value"] for entry in published["results"]] == [0.8512345678, 1]
        (index,) = (front_matter(card) or {})["model-index"]
        assert index == {
            "name": "tiny-lighttoken",
            "results": [
                {
                    "task": {"type": "sentence-similarity", "name": "STS-B, zero-shot"},
                    "dataset": {"name": "STS-B", "type": "nyu-mll/glue", "config": "stsb"},
                    "metrics": [{"type": "spearman", "value": 0.851235}],
                    "source": {
                        "name": "lighttoken_evaluation.json, lighttoken evaluate",
                        "url": f"{logged_in.url}/{REPO}/blob/main/lighttoken_evaluation.json",
                    },
                }
            ],
        }
        assert "| STS-B, zero-shot | spearman | 0.8512 | 0.8600 | 99.0 % |" in card
        assert "| own | f1 | 1.0000 |  |  |" in card
