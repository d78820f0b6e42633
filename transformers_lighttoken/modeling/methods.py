"""What a compressed model does otherwise than its class: saving with a given state dict, casting, resizing."""

import inspect
import logging
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .embedding import LightTokenEmbedding
from .head import LightTokenHead, LightTokenView
from .hub_methods import HubMethods, hub_methods
from .latents import TableLatents
from .resize import resize_head, resize_owner
from .sites import owners
from .surgery import put_back, sharing_modules

logger = logging.getLogger(__name__)

_TRAINERS_FOLDER = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-\d+")
_OURS = (LightTokenEmbedding, LightTokenView, LightTokenHead)
_SAVING = tuple(inspect.signature(PreTrainedModel.save_pretrained).parameters)[2:-1]  # without self, folder, kwargs


class CompressedModel:
    """Methods put before those of a model's own class, whose name and place the mixture keeps."""

    dense_class: type[PreTrainedModel]

    def save_pretrained(
        self: Any, save_directory: Any, *args: Any, training_checkpoint: bool | None = None, **kwargs: Any
    ) -> Any:
        """Saves; a `state_dict` gathered elsewhere is kept, where transformers drops it for quantized models.

        Args:
            self: the model.
            save_directory: the folder.
            *args: of transformers' own method.
            training_checkpoint: whether the float32 latents are saved beside the stored rounding, so that training goes
                on exactly where it was; None for folders that Trainer names `checkpoint-<step>`.
            **kwargs: of transformers' own method.
        """
        methods = hub_methods()
        if methods is not None:
            methods.before_trainer()
        quantizer = getattr(self, "hf_quantizer", None)
        if quantizer is None:
            return self.dense_class.save_pretrained(self, save_directory, *args, **kwargs)
        if training_checkpoint is None:
            training_checkpoint = _TRAINERS_FOLDER.fullmatch(Path(save_directory).name) is not None
        kwargs |= dict(zip(_SAVING, args, strict=False))
        quantizer.keeps_latents = training_checkpoint
        quantizer.given_state_dict = kwargs.get("state_dict")
        save = partial(self.dense_class.save_pretrained, self, save_directory)
        try:
            if methods is None or not kwargs.get("push_to_hub") or not _saves_model(self, kwargs):
                return save(**kwargs)
            _save_and_push(self, Path(save_directory), save, methods, kwargs)
        finally:
            quantizer.given_state_dict, quantizer.keeps_latents = None, False

    def push_to_hub(self: Any, repo_id: str, **kwargs: Any) -> Any:
        """Pushes as transformers does, with the card of `push_compressed` instead of a bare one."""
        methods = hub_methods()
        if methods is None or not _saves_model(self, {}):
            return self.dense_class.push_to_hub(self, repo_id, **kwargs)
        return methods.push(self, repo_id, **kwargs)

    def half(self: Any) -> Any:
        """Casts to float16; the stored integers stay."""
        return nn.Module.half(self)

    def float(self: Any) -> Any:
        """Casts to float32; the stored integers stay."""
        return nn.Module.float(self)

    def num_parameters(self: Any, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Counts what is stored in floating point; latents, which stand for stored integers, only where they train."""
        count = self.dense_class.num_parameters(self, only_trainable, exclude_embeddings)
        if only_trainable:
            return count
        latents = (module for module in self.modules() if isinstance(module, TableLatents))
        return count - sum(parameter.numel() for module in latents for parameter in module.parameters())

    def set_input_embeddings(self: Any, value: nn.Module) -> None:
        """Sets the input embeddings, where they are not a compressed table.

        Raises:
            ValueError: if a compressed table would be lost, which heads and the config go on naming.
        """
        current = self.get_input_embeddings()
        if isinstance(current, _OURS) and not isinstance(value, _OURS):
            raise ValueError(
                f"the input embeddings of this {type(self).__name__} are a compressed table, which "
                f"{type(value).__name__} cannot replace: restore the dense model first with model.dequantize(), or add "
                "tokens with model.resize_token_embeddings()."
            )
        modules = sharing_modules(self)
        self.dense_class.set_input_embeddings(self, value)
        put_back(self, modules)

    def resize_token_embeddings(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Resizes as transformers does; new tokens become exact rows, which train unless the config freezes them."""
        modules = sharing_modules(self)
        rows = {name: owner.num_embeddings for name, owner in owners(self).items()}
        resized = self.dense_class.resize_token_embeddings(self, *args, **kwargs)
        put_back(self, modules)
        if getattr(self, "hf_quantizer", None) is not None:
            self.hf_quantizer.record_plans(self)
            _tell_of_frozen_tokens(self, rows)
        return self.get_input_embeddings() if modules else resized

    def _get_resized_embeddings(
        self: Any,
        old_embeddings: nn.Module,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Module:
        owner = old_embeddings.owner if isinstance(old_embeddings, LightTokenView) else old_embeddings
        if not isinstance(owner, LightTokenEmbedding):
            method = self.dense_class._get_resized_embeddings
            return method(self, old_embeddings, new_num_tokens, pad_to_multiple_of, mean_resizing)
        resize_owner(self, owner, new_num_tokens, pad_to_multiple_of, mean_resizing)
        return old_embeddings

    def _get_resized_lm_head(self: Any, old_lm_head: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if not isinstance(old_lm_head, LightTokenHead):
            return self.dense_class._get_resized_lm_head(self, old_lm_head, *args, **kwargs)
        resize_head(self, old_lm_head, mean_resizing=kwargs.get("mean_resizing", True))
        return old_lm_head

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        _, _, *state = super().__reduce_ex__(protocol)
        return _bare_instance, (self.dense_class,), *state


def add_methods(model: PreTrainedModel) -> None:
    """Gives a model, and its parts that hold a compressed table, the methods of CompressedModel."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and any(isinstance(module, _OURS) for module in part.modules()):
            setattr(part, "__class__", _compressed_class(type(part)))  # noqa: B010 - pyright knows no such assignment


def remove_methods(model: PreTrainedModel) -> None:
    """Gives a model and its parts their own classes back."""
    for part in model.modules():
        if isinstance(part, CompressedModel):
            setattr(part, "__class__", part.dense_class)  # noqa: B010


def _tell_of_frozen_tokens(model: Any, rows_before: dict[str, int]) -> None:
    trained = model.hf_quantizer.quantization_config.trained_parts
    added = sum(max(0, owner.num_embeddings - rows_before[name]) for name, owner in owners(model).items())
    if added and "exact_rows" not in trained:
        logger.warning(
            "The %d new tokens are exact rows, which trainable=%s keeps as they were initialised: compress with "
            "'exact_rows' among `trainable` if they are to learn.", added, list(trained),
        )  # fmt: skip


def _saves_model(model: Any, saving: dict[str, Any]) -> bool:
    """Whether `save_pretrained` writes a checkpoint of the model, and not its adapter or the shards of a process."""
    return not (getattr(model, "_hf_peft_config_loaded", False) or saving.get("distributed_checkpoint"))


def _save_and_push(
    model: Any, folder: Path, save: Callable[..., None], methods: HubMethods, given: dict[str, Any]
) -> None:
    """Saves, then pushes what was written; arguments that saving does not know are those of the push."""
    saving = {name: value for name, value in given.items() if name in _SAVING and name != "push_to_hub"}
    pushing = {name: value for name, value in given.items() if name not in _SAVING}
    repo_id = pushing.pop("repo_id", None) or folder.resolve().name
    before = _states(folder)
    save(**saving)
    written = {name for name, state in _states(folder).items() if before.get(name) != state}
    is_main = saving.get("is_main_process", True)
    if getattr(model, "should_save_on_this_rank", bool)(is_main):
        methods.push(model, repo_id, folder=folder, written=written, token=saving.get("token"), **pushing)


def _states(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What tells whether a file in a folder has been written."""
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    stats = {path.name: path.stat() for path in files}
    return {name: (stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in stats.items()}


@cache
def _compressed_class(dense_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    if issubclass(dense_class, CompressedModel):
        return dense_class
    named_alike = {name: getattr(dense_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(dense_class.__name__, (CompressedModel, dense_class), {**named_alike, "dense_class": dense_class})


def _bare_instance(dense_class: type[PreTrainedModel]) -> PreTrainedModel:
    compressed = _compressed_class(dense_class)
    return compressed.__new__(compressed)
