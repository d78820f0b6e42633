"""Libraries that only a part of the package needs: imported when used, from that part's extra."""

from importlib import import_module
from typing import Any


def import_optional(module: str, purpose: str, extra: str = "eval") -> Any:
    """Imports a library of an extra.

    Args:
        module: name of the module.
        purpose: what needs it, for the message.
        extra: of this package that brings it.

    Raises:
        ImportError: if it is not installed; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.split('.')[0]}, which cannot be imported ({error}): install the extra with "
            f"`pip install 'transformers-lighttoken[{extra}]'`."
        ) from error
