"""Time limits for calls of the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import get_session
from huggingface_hub.utils import _http

CONNECT_SECONDS = 30.0
_FACTORY = "_GLOBAL_CLIENT_FACTORY"
ANSWER_SECONDS = 300.0  # a commit of many large files takes the Hub minutes


@contextmanager
def limited_time() -> Iterator[None]:
    """Gives the shared session of huggingface_hub time limits where it has none; what the user has set stays.

    Its client waits for ever otherwise, in uploads and commits. It also closes the session where a connection fails,
    and goes on with another one: what makes that one is wrapped too. `set_client_factory` would not do, because it
    closes the session, with what the user has set on it, and the user's own factory cannot be asked for.
    """
    limited: list[tuple[Any, Any]] = []

    def limit(session: Any) -> Any:
        limited.append((session, session.timeout))
        session.timeout = _with_limits(session.timeout)
        return session

    own_factory: Any = getattr(_http, _FACTORY, None)  # a private name: without it, sessions made anew have no limits
    limit(get_session())

    def factory() -> Any:
        return limit(own_factory())

    if own_factory is not None:
        setattr(_http, _FACTORY, factory)
    try:
        yield
    finally:
        if getattr(_http, _FACTORY, None) is factory:
            setattr(_http, _FACTORY, own_factory)
        for session, own in limited:
            session.timeout = own


def _with_limits(own: Any) -> Any:
    limits = {"connect": CONNECT_SECONDS, "read": ANSWER_SECONDS, "write": ANSWER_SECONDS, "pool": None}
    kept = {name: getattr(own, name) for name in limits}
    return type(own)(**{name: limits[name] if kept[name] is None else kept[name] for name in limits})
