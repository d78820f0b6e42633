"""Time limits of the client's session, and of those that it makes where a connection fails."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from huggingface_hub import close_session, get_session, set_client_factory
from huggingface_hub.utils import _http

from transformers_lighttoken.hub import time_limits
from transformers_lighttoken.hub.time_limits import limited_time, shared_session


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    own = _http._GLOBAL_CLIENT_FACTORY
    yield
    set_client_factory(own)


def limits() -> tuple[float | None, float | None, float | None]:
    timeout: Any = shared_session().timeout
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


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_at_once_leave_in_any_order(first_out: int):
    own_factory = _http._GLOBAL_CLIENT_FACTORY
    own = get_session()
    stacks = [ExitStack(), ExitStack()]
    for stack in stacks:
        stack.enter_context(limited_time())
    stacks[first_out].close()
    assert limits() == (30.0, 300.0, 300.0)
    close_session()
    assert get_session() is not own
    assert limits() == (30.0, 300.0, 300.0)
    stacks[1 - first_out].close()
    assert limits() == (None, None, None)
    assert own.timeout.read is None
    assert _http._GLOBAL_CLIENT_FACTORY is own_factory


@pytest.mark.parametrize("first_out", [0, 1])
def test_factory_that_is_set_between_two_of_them(first_out: int):
    stacks = [ExitStack(), ExitStack()]
    stacks[0].enter_context(limited_time())
    set_client_factory(_http.default_client_factory)
    stacks[1].enter_context(limited_time())
    assert limits() == (30.0, 300.0, 300.0)
    stacks[first_out].close()
    close_session()
    assert limits() == (30.0, 300.0, 300.0)
    stacks[1 - first_out].close()
    assert limits() == (None, None, None)
    assert _http._GLOBAL_CLIENT_FACTORY is _http.default_client_factory


def test_a_session_that_is_closed_while_it_is_asked_for_is_asked_for_again(monkeypatch):
    answers = [None, None, get_session()]
    monkeypatch.setattr(time_limits, "get_session", lambda: answers.pop(0))
    with limited_time():
        assert not answers
        monkeypatch.undo()
        assert limits() == (30.0, 300.0, 300.0)


def test_limit_that_the_user_sets_meanwhile_stays():
    with limited_time():
        get_session().timeout = 7.0
    assert limits() == (7.0, 7.0, 7.0)


def test_factory_that_fails_leaves_nothing_behind():
    def factory() -> Any:
        raise OSError("no certificates")

    set_client_factory(factory)
    with pytest.raises(OSError, match="no certificates"), limited_time():
        pass
    assert _http._GLOBAL_CLIENT_FACTORY is factory
    set_client_factory(_http.default_client_factory)
    assert limits() == (None, None, None)


def test_many_threads_that_lose_their_session_again_and_again():
    own_factory = _http._GLOBAL_CLIENT_FACTORY
    seen: list[tuple[float | None, ...]] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(40):
            with limited_time():
                close_session()
                seen.append(limits())

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert seen == [(30.0, 300.0, 300.0)] * 320
    assert limits() == (None, None, None)
    assert _http._GLOBAL_CLIENT_FACTORY is own_factory
