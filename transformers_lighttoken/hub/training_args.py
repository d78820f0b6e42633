"""The training arguments that Trainer stores beside a model: without the token that they hold."""

from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINING_ARGS_NAME

from ..modeling.methods import CompressedModel


class UnstoredToken(str):
    """A token that is stored as None, wherever the object that holds it is pickled."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def __copy__(self) -> "UnstoredToken":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "UnstoredToken":
        return self


def holds_compressed(trainer: Any) -> bool:
    """Whether a Trainer's model is compressed, or wraps one that is, as an adapter does."""
    return any(isinstance(module, CompressedModel) for module in trainer.model.modules())


def keep_token_out(trainer: Any, folder: Path) -> None:
    """Keeps the token out of what Trainer stores from now on, and of what it has stored in a folder.

    Trainer pickles its arguments, `hub_token` among them, and uploads them with the model.
    """
    arguments = trainer.args
    if isinstance(arguments.hub_token, str):
        arguments.hub_token = UnstoredToken(arguments.hub_token)
    stored = folder / TRAINING_ARGS_NAME
    if stored.is_file():
        torch.save(arguments, stored)
