"""Answers that are not what the client expects become one line too."""

import pytest

from tests.unit.hub.test_errors import raiser
from transformers_lighttoken.hub.errors import (
    MALFORMED,
    HubError,
    call_hub,
)


class TestMalformed:
    @pytest.mark.parametrize(
        "error", [KeyError("commitOid"), TypeError("'NoneType'"), AttributeError("get"), ValueError("Malformed x"),
                  UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), IndexError("list")],
    )  # fmt: skip
    def test_answers_that_the_client_cannot_read(self, error: Exception):
        with pytest.raises(HubError, match=r"a/b: could not look, the answer is not the Hub's \(") as caught:
            call_hub("look", "a/b", raiser(error), malformed=MALFORMED)
        assert type(error).__name__ in str(caught.value)
        assert str(caught.value).endswith("Repeat later, and check the proxy settings and HF_ENDPOINT.")

    def test_what_has_a_line_of_its_own_keeps_it(self):
        with pytest.raises(HubError, match="the Hub refuses the front matter of the card"):
            call_hub("look", "a/b", raiser(ValueError("Invalid metadata in README.md. x")), malformed=MALFORMED)
