"""Gives compressed models their methods for the Hub; the modules behind them are imported when they are used."""

import sys
from typing import Any

from ..modeling.hub_methods import HubMethods, set_hub_methods


def register_hub_methods() -> None:
    """Lets `push_to_hub` of models and of Trainer write our card."""
    set_hub_methods(HubMethods(push=_push, before_trainer=_before_trainer))


def _push(*args: Any, **kwargs: Any) -> Any:
    from .model_push import push_model

    return push_model(*args, **kwargs)


def _before_trainer() -> None:
    if "transformers.trainer" in sys.modules:
        from .trainer_push import prepare_trainers

        prepare_trainers()
