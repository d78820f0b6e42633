"""What a push leaves of the user's session of huggingface_hub."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub.utils import get_session

from tests.hub_server import HubServer
from tests.integration.test_push import REPO
from transformers_lighttoken import push_compressed
from transformers_lighttoken.hub import time_limits
from transformers_lighttoken.hub.errors import HubError
from transformers_lighttoken.hub.facts import CardWishes


class TestSession:
    def test_time_limits_come_and_go(self, logged_in: HubServer, tiny: Path):
        assert get_session().timeout.read is None
        push_compressed(tiny, REPO)
        assert get_session().timeout.read is None
        with time_limits.limited_time():
            limits = get_session().timeout
            assert (limits.connect, limits.read, limits.write) == (30.0, 300.0, 300.0)
        get_session().timeout = 7.0
        with time_limits.limited_time():
            assert get_session().timeout.read == 7.0
        get_session().timeout = None

    @pytest.mark.parametrize("step", ["whoami", "repo_info", "validate_yaml", "create", "preupload", "commit"])
    def test_a_hub_that_does_not_answer(self, logged_in, tiny, no_waiting, monkeypatch, step: str):
        monkeypatch.setattr(time_limits, "ANSWER_SECONDS", 0.1)
        logged_in.inject(step, mode="timeout", seconds=0.4, times=None)
        with pytest.raises(HubError, match="the Hub did not answer in time. Check the connection and repeat."):
            push_compressed(tiny, REPO)

    def test_wishes_have_the_arguments_of_push_compressed(self):
        assert yaml.safe_load("no") is False  # why cards are not read with it
        own = {"training", "base_card", "has_base_head"}
        assert set(CardWishes.__dataclass_fields__) - own <= set(push_compressed.__annotations__)
