"""What the client logs while we call it shows no signed address and no token."""

import logging

import pytest

from transformers_lighttoken.hub.errors import HubError, call_hub
from transformers_lighttoken.hub.options import PushOptions
from transformers_lighttoken.hub.redaction import redact, redacted_logs

TOKEN = "hf_" + "aB" * 17
SIGNED = "https://user:pass@s3.example/x/1?part=2&X-Amz-Signature=ab12"


@pytest.mark.parametrize("name", ["huggingface_hub.utils._http", "httpx", "httpx2"])
def test_logs_are_redacted_meanwhile_and_not_after(name: str, caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger(name)
    caplog.set_level(logging.INFO, logger=name)
    with redacted_logs():
        logger.warning("HTTP Error %s thrown while requesting PUT %s with %s", 503, SIGNED, TOKEN)
    assert caplog.messages == ["HTTP Error 503 thrown while requesting PUT https://s3.example/x/1 with ***"]
    caplog.clear()
    logger.warning("to %s", SIGNED)
    assert caplog.messages == [f"to {SIGNED}"]
    assert logger.filters == []


def test_calls_of_the_hub_are_redacted(caplog: pytest.LogCaptureFixture):
    def call() -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("requesting PUT %s", SIGNED)
        raise ConnectionResetError

    with pytest.raises(HubError):
        call_hub("upload", "a/b", call)
    assert caplog.messages == ["requesting PUT https://s3.example/x/1"]


def test_a_known_token_is_blanked_out_whatever_it_looks_like():
    assert redact("token corporate-77 is bad", "corporate-77") == "token *** is bad"


def test_options_do_not_show_the_token():
    assert TOKEN not in repr(PushOptions(token=TOKEN))
