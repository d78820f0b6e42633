"""Time limits for calls of the Hub."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import get_session
from huggingface_hub.utils import _http

CONNECT_SECONDS = 30.0
_FACTORY = "_GLOBAL_CLIENT_FACTORY"
_TRIES = 1000
ANSWER_SECONDS = 300.0  # a commit of many large files takes the Hub minutes


@contextmanager
def limited_time() -> Iterator[None]:
    """Gives the shared session of huggingface_hub time limits where it has none; what the user has set stays.

    Its client waits for ever otherwise, in uploads and commits. It also closes the session where a connection fails,
    and goes on with another one: what makes that one is wrapped too. `set_client_factory` would not do, because it
    closes the session, with what the user has set on it, and the user's own factory cannot be asked for.

    The session is that of all threads: the limits stay until the last of them has left.
    """
    _LIMITS.enter()
    try:
        # Outside of our lock: where it makes a session, it holds huggingface_hub's lock, and asks for ours.
        _LIMITS.limit(shared_session())
        yield
    finally:
        _LIMITS.leave()


def shared_session() -> Any:
    """The session of huggingface_hub, whose `get_session` gives None where another thread closes it meanwhile."""
    for _ in range(_TRIES):
        session: Any = get_session()
        if session is not None:
            return session
    raise RuntimeError(f"huggingface_hub gave no session {_TRIES} times: what closes it again and again?")


class _Limits:
    """What is changed of huggingface_hub while any thread wants time limits, and what it was before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._limited: list[tuple[Any, Any, Any]] = []  # session, its own time limits, those it has from us
        self._own: Any = None
        self._wrapped: Callable[[], Any] | None = None

    def enter(self) -> None:
        """Counts a thread in, and wraps what makes sessions unless it is wrapped already."""
        with self._lock:
            self._threads += 1
            current: Any = getattr(_http, _FACTORY, None)  # a private name: without it, new sessions have no limits
            if current is not None and current is not self._wrapped:
                self._own, self._wrapped = current, lambda: self.limit(current())
                setattr(_http, _FACTORY, self._wrapped)

    def limit(self, session: Any) -> Any:
        """Gives a session time limits, if it has none from us and any thread still wants them."""
        with self._lock:
            if self._threads and not any(known is session for known, _, _ in self._limited):
                own = session.timeout
                session.timeout = _with_limits(own)
                self._limited.append((session, own, session.timeout))
        return session

    def leave(self) -> None:
        """Counts a thread out; after the last one all is as it was, but for what somebody else has set since."""
        with self._lock:
            self._threads -= 1
            if self._threads:
                return
            if self._wrapped is not None and getattr(_http, _FACTORY, None) is self._wrapped:
                setattr(_http, _FACTORY, self._own)
            for session, own, ours in self._limited:
                if session.timeout == ours:
                    session.timeout = own
            self._limited, self._own, self._wrapped = [], None, None


_LIMITS = _Limits()


def _with_limits(own: Any) -> Any:
    limits = {"connect": CONNECT_SECONDS, "read": ANSWER_SECONDS, "write": ANSWER_SECONDS, "pool": None}
    kept = {name: getattr(own, name) for name in limits}
    return type(own)(**{name: limits[name] if kept[name] is None else kept[name] for name in limits})
