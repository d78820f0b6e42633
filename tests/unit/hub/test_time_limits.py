"""Time limits of the client's session, and of those that it makes where a connection fails."""

from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import close_session, get_session, set_client_factory
from huggingface_hub.utils import _http

from transformers_lighttoken.hub.time_limits import limited_time


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    own = _http._GLOBAL_CLIENT_FACTORY
    yield
    set_client_factory(own)


def limits() -> tuple[float | None, float | None, float | None]:
    timeout: Any = get_session().timeout
    return timeout.connect, timeout.read, timeout.write


def test_a_session_that_is_made_anew_has_them_too():
    with limited_time():
        first = get_session()
        close_session()  # as the client does on ConnectError
        assert get_session() is not first
        assert limits() == (30.0, 300.0, 300.0)
    assert limits() == (None, None, None)
    close_session()
    assert limits() == (None, None, None)


def test_sessions_of_the_users_factory_stay_as_they_are():
    made = []

    def factory() -> Any:
        made.append(_http.default_client_factory())
        made[-1].timeout = 7.0
        return made[-1]

    set_client_factory(factory)
    with limited_time():
        close_session()
        assert get_session() is made[-1]
        assert limits() == (7.0, 7.0, 7.0)
    assert _http._GLOBAL_CLIENT_FACTORY is factory


def test_a_factory_that_is_set_meanwhile_stays():
    with limited_time():
        set_client_factory(_http.default_client_factory)
    assert _http._GLOBAL_CLIENT_FACTORY is _http.default_client_factory
