"""Libraries that only the evaluation needs: imported when used, from the extra `eval`."""

from importlib import import_module
from typing import Any


def import_optional(module: str, purpose: str) -> Any:
    """Imports a library of the extra `eval`.

    Args:
        module: name of the module.
        purpose: what needs it, for the message.

    Raises:
        ImportError: if it is not installed; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module}, which cannot be imported ({error}): install the extra with "
            "`pip install 'transformers-lighttoken[eval]'`."
        ) from error
