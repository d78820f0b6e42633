"""Time limits for calls of the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import get_session

CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 300.0  # a commit of many large files takes the Hub minutes


@contextmanager
def limited_time() -> Iterator[None]:
    """Gives the shared session of huggingface_hub time limits where it has none; what the user has set stays.

    Its client waits for ever otherwise, in uploads and commits.
    """
    session = get_session()
    own = session.timeout
    limits = {"connect": CONNECT_SECONDS, "read": ANSWER_SECONDS, "write": ANSWER_SECONDS, "pool": None}
    kept = {name: getattr(own, name) for name in limits}
    session.timeout = type(own)(**{name: limits[name] if kept[name] is None else kept[name] for name in limits})
    try:
        yield
    finally:
        session.timeout = own
