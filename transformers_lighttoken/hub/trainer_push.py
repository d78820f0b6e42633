"""Pushes of a Trainer: what it publishes of a compressed model while it trains, and with which card."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from transformers import trainer as trainers
from transformers.trainer_utils import HubStrategy

from ..checkpoint.compressed import read_compressed
from ..checkpoint.files import CONFIG, WEIGHTS_INDEX
from ..checkpoint.source import SourceError
from ..checkpoint.write import Change, write_checkpoint
from ..modeling.errors import LightTokenCheckpointError
from ..modeling.methods import CompressedModel
from .client import hub_api
from .errors import HubError
from .trainer_card import followed_by_ours
from .trainer_upload import in_one_checked_commit, write_checked_card
from .training_args import holds_compressed, keep_token_out

logger = logging.getLogger(__name__)

_INSTALLED = "_is_of_lighttoken"
_WARNED = "_lighttoken_warned"
_OF_CHECKPOINTS = {HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS}


def prepare_trainers() -> None:
    """Lets every Trainer of this process publish compressed models as they are; other models go their usual way.

    Trainer makes its card between saving the model and uploading the folder, and leaves no other way in. Subclasses
    with methods of their own, as those of TRL, are served too; one that is defined later, at the next save.
    """
    for trainer_class in _with_subclasses(trainers.Trainer):
        for name, wrapper in _WRAPPERS.items():
            own = vars(trainer_class).get(name)
            is_super_called = name in _OF_TRAINER_ALONE and trainer_class is not trainers.Trainer
            if own is not None and not is_super_called and not hasattr(own, _INSTALLED):
                wrapped = wrapper(own)
                setattr(wrapped, _INSTALLED, True)
                setattr(trainer_class, name, wrapped)


def _with_subclasses(trainer_class: type) -> Iterator[Any]:
    yield trainer_class
    for subclass in trainer_class.__subclasses__():
        yield from _with_subclasses(subclass)


def _of_what_is_exported(own: Callable[..., None]) -> Callable[..., None]:
    """A `_push_from_checkpoint` that publishes the stored rounding, without latents, under our card."""

    @wraps(own)
    def _push_from_checkpoint(trainer: Any, checkpoint_folder: str) -> None:
        model = trainer.accelerator.unwrap_model(trainer.model)
        strategy = trainer.args.hub_strategy
        if holds_compressed(trainer):
            for folder in (checkpoint_folder, trainer.args.output_dir):
                keep_token_out(trainer, Path(folder))
        if not isinstance(model, CompressedModel) or strategy == HubStrategy.END:
            return own(trainer, checkpoint_folder)
        if not trainer.is_world_process_zero() or _is_busy(trainer):
            return
        trainer._finish_current_push()  # it reads the output folder, which must not change under it
        with tempfile.TemporaryDirectory() as exported:
            try:
                _export(Path(checkpoint_folder), Path(exported))
                _prepare_output(trainer, Path(exported))
            except (SourceError, LightTokenCheckpointError, ValueError, ImportError, HubError) as error:
                _warn_once(trainer, error)
                return
            trainer.args.hub_strategy = HubStrategy.EVERY_SAVE  # the folder of the checkpoint itself follows
            try:
                own(trainer, exported)
            finally:
                trainer.args.hub_strategy = strategy
        if strategy in _OF_CHECKPOINTS:
            _push_folder(trainer, Path(checkpoint_folder))

    return _push_from_checkpoint


def _is_busy(trainer: Any) -> bool:
    """Whether an earlier push is not finished, and is not to be overtaken."""
    earlier = trainer.push_in_progress
    return not trainer.args.hub_always_push and earlier is not None and not earlier.is_done()


def _export(checkpoint_folder: Path, folder: Path) -> None:
    """Writes a checkpoint of the training without the float32 latents, which only resuming needs."""
    checkpoint = read_compressed(checkpoint_folder)
    latents = {latent.key for table in checkpoint.tables for latent in table.latents}
    write_checkpoint(folder, checkpoint.source, checkpoint.weights, Change(latents), checkpoint.source.config)


def _prepare_output(trainer: Any, exported: Path) -> None:
    """Puts model, tokenizer and card in the folder that is uploaded."""
    output = Path(trainer.args.output_dir)
    for path in exported.iterdir():
        if path.name in (CONFIG, WEIGHTS_INDEX) or path.suffix == ".safetensors":
            shutil.copyfile(path, output / path.name)
    if trainer.processing_class is not None:
        trainer.processing_class.save_pretrained(output)
    client, target = write_checked_card(trainer)
    if not target.has_branch:
        client.create_branch(target)


def _push_folder(trainer: Any, folder: Path) -> None:
    """Uploads a checkpoint with all that resuming needs, as Trainer itself does."""
    whole = trainer.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS
    job = hub_api(trainer.args.hub_token).upload_folder(
        repo_id=trainer.hub_model_id,
        folder_path=folder,
        path_in_repo=folder.name if whole else "last-checkpoint",
        commit_message=f"Training in progress, step {trainer.state.global_step}, checkpoint",
        run_as_future=True,
        revision=getattr(trainer.args, "hub_revision", None),
    )
    trainer.push_in_progress.jobs.append(job)


def _warn_once(trainer: Any, error: Exception) -> None:
    told: set[str] = vars(trainer).setdefault(_WARNED, set())
    if str(error) not in told:
        told.add(str(error))
        logger.warning(
            "This save is not pushed: %s Training goes on; push at its end, with trainer.push_to_hub(license=...) "
            "where the licence is what is missing.",
            error,
        )


_WRAPPERS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "create_model_card": followed_by_ours,
    "push_to_hub": in_one_checked_commit,
    "_push_from_checkpoint": _of_what_is_exported,
}
_OF_TRAINER_ALONE = {"push_to_hub"}  # a subclass's own does more than Trainer's, which it calls
