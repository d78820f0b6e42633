"""The HTTP library of the installed huggingface_hub: `httpx2` with its version 2, `httpx` with its version 1."""

from importlib import import_module
from typing import Any

from huggingface_hub.errors import HfHubHTTPError

_BASES = [base.__module__.split(".")[0] for base in HfHubHTTPError.__mro__]
http: Any = import_module(next(name for name in _BASES if name in ("httpx2", "httpx")))
