"""What compressed models do on the Hub. It is given from outside, by `set_hub_methods`: `modeling` knows no Hub."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HubMethods:
    """What a compressed model calls.

    Attributes:
        push: takes the model, the repository, and what `push_to_hub` and `save_pretrained(push_to_hub=True)` are given;
            with `folder` and `written`, the files that have been saved there already are pushed.
        before_trainer: called before a Trainer takes a model, and before each save, which may be a Trainer's.
    """

    push: Callable[..., Any]
    before_trainer: Callable[[], None]


_methods: list[HubMethods] = []


def set_hub_methods(methods: HubMethods) -> None:
    """Gives all compressed models their methods for the Hub; a second call replaces the first."""
    _methods[:] = [methods]


def hub_methods() -> HubMethods | None:
    """The methods, None if none were given: models are then pushed as transformers does it."""
    return _methods[0] if _methods else None
