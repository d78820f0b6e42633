"""Libraries that only the card needs: imported when used, from the extra `card`."""

from importlib import import_module
from typing import Any


def import_for_card(module: str) -> Any:
    """Imports a library of the extra `card`.

    Args:
        module: name of the module.

    Raises:
        ImportError: if it is not installed; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"the model card needs {module.split('.')[0]}, which cannot be imported ({error}): install the extra with "
            "`pip install 'transformers-lighttoken[card]'`."
        ) from error
