"""Text without secrets: what the Hub, and the client's own log, say is shown without tokens and signed addresses."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

_TOKEN = re.compile(r"\b(?:hf|api_org)_(?:(?:oauth|jwt)_\S+|[A-Za-z0-9]{20,})|\bBearer\s+\S+", re.IGNORECASE)
_URL_SECRETS = re.compile(r"(?<=://)[^/\s@]+@|(?<=\w)\?[^\s\"'<>]*=[^\s\"'<>]*")
# Those that log the addresses of requests: huggingface_hub's as warnings, httpx's at level INFO.
_LOGGERS = ("huggingface_hub.utils._http", "httpx", "httpx2")


def redact(text: str, token: str = "") -> str:
    """A text without tokens, passwords and the queries of addresses.

    Args:
        text: of anybody.
        token: a token that is known, whatever it looks like.
    """
    text = text.replace(token, "***") if token else text
    return _URL_SECRETS.sub("", _TOKEN.sub("***", text))


@contextmanager
def redacted_logs() -> Iterator[None]:
    """Redacts what huggingface_hub and its HTTP library log meanwhile, in all threads."""
    filters = [_Redacting() for _ in _LOGGERS]
    for name, redacting in zip(_LOGGERS, filters, strict=True):
        logging.getLogger(name).addFilter(redacting)
    try:
        yield
    finally:
        for name, redacting in zip(_LOGGERS, filters, strict=True):
            logging.getLogger(name).removeFilter(redacting)


class _Redacting(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        return True
