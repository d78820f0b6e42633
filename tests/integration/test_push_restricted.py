"""Pushes of models whose base model may not be read: gated, or forbidden in another way."""

import re
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from transformers import AutoModel

from tests.checkpoints import add_tokenizer, save_dense
from tests.hub_card_rules import front_matter
from tests.hub_server import HubServer
from tests.integration.sample_model import upload
from tests.push_faults import run_command
from transformers_lighttoken import LightTokenConfig, push_compressed
from transformers_lighttoken.hub.errors import HubError
from transformers_lighttoken.hub.restricted import RestrictedError

REPO, BASE = "alice/tiny-lighttoken", "bob/gated"
GATED = f"{BASE}: could not read README.md of the base model, access to it is restricted (HTTP 403). "
LEFT_OUT = f"{BASE}: access to it is restricted, so that what its card says of language and task is left out"


@pytest.fixture
def gated(logged_in: HubServer) -> HubServer:
    """A Hub with a gated base model, which alice may not read."""
    logged_in.store.create_repo(BASE, gated=True)
    logged_in.commit(BASE, {"README.md": b"---\nlicense: mit\nlanguage: de\n---\n"})
    return logged_in


@pytest.fixture
def bare(tiny: Path) -> Path:
    """A compressed model without its base model's card."""
    (tiny / "README.md").unlink()
    return tiny


def card_of(hub: HubServer) -> dict:
    return front_matter(hub.snapshot(REPO).files["main"]["README.md"].decode()) or {}


def test_access_is_to_be_asked_for_or_the_licence_given(gated: HubServer, bare: Path):
    status, said = run_command(["push", str(bare), REPO, "--base-model", BASE])
    assert (status, len(said.splitlines())) == (1, 1)
    assert said.startswith(f"error: {GATED}Ask for access at {gated.url}/{BASE}, or pass license= ")
    assert "(on the command line --license). The Hub says: " in said
    assert "you are not in the authorized list" in said
    assert gated.write_token not in said
    assert gated.snapshot(REPO).heads == {}


def test_error_is_not_chained_to_the_request_with_the_token(gated: HubServer, bare: Path):
    with pytest.raises(RestrictedError, match=re.escape(GATED)) as caught:
        push_compressed(bare, REPO, base_model=BASE)
    assert caught.value.status == 403
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_push_with_a_licence_goes_on_without_the_card(gated: HubServer, bare: Path, caplog: pytest.LogCaptureFixture):
    push_compressed(bare, REPO, base_model=BASE, license="apache-2.0")
    data = card_of(gated)
    assert (data["license"], data["base_model"], data.get("language")) == ("apache-2.0", BASE, None)
    assert f"{LEFT_OUT}: pass language= (--language) where it is known." in caplog.text
    assert run_command(["push", str(bare), REPO, "--base-model", BASE, "--license", "mit", "--language", "fr"])[0] == 0
    assert (card_of(gated)["license"], card_of(gated)["language"]) == ("mit", "fr")


def test_with_access_the_card_is_read(gated: HubServer, bare: Path):
    gated.store.repos[BASE].readers.add("alice")
    push_compressed(bare, REPO, base_model=BASE)
    assert (card_of(gated)["license"], card_of(gated)["language"]) == ("mit", "de")


def test_forbidden_without_being_gated(gated: HubServer, bare: Path, caplog: pytest.LogCaptureFixture):
    gated.store.repos[BASE].gated = False
    gated.inject("head", status=403, times=None)
    with pytest.raises(RestrictedError, match=re.escape(f"{GATED}Ask for access at {gated.url}/{BASE}, or pass")):
        push_compressed(bare, REPO, base_model=BASE)
    push_compressed(bare, REPO, base_model=BASE, license="apache-2.0")
    assert card_of(gated)["license"] == "apache-2.0"
    assert LEFT_OUT in caplog.text


def test_a_hub_in_trouble_is_no_restriction(gated: HubServer, bare: Path):
    gated.inject("head", status=503, times=None)
    with pytest.raises(HubError, match=r"the Hub itself is in trouble \(HTTP 503\)"):
        push_compressed(bare, REPO, base_model=BASE, license="apache-2.0")
    assert gated.snapshot(REPO).heads == {}


def test_model_in_memory_whose_base_has_been_gated_since(
    logged_in: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    save_dense(tmp_path / "dense")
    add_tokenizer(tmp_path / "dense")
    (tmp_path / "dense" / "README.md").write_text("---\nlicense: mit\nlanguage: de\n---\n")
    logged_in.store.create_repo(BASE)
    upload(HfApi(endpoint=logged_in.url, token=logged_in.other_token), tmp_path / "dense", BASE)
    config = LightTokenConfig(code_bits=8, tiers="equal", metric="plain")
    model = AutoModel.from_pretrained(BASE, quantization_config=config)
    logged_in.store.repos[BASE].gated = True
    with pytest.raises(RestrictedError, match=re.escape(GATED)):
        model.push_to_hub(REPO)
    model.push_to_hub(REPO, license="apache-2.0")
    data = card_of(logged_in)
    assert (data["license"], data["base_model"], data.get("language")) == ("apache-2.0", BASE, None)
    assert LEFT_OUT in caplog.text
