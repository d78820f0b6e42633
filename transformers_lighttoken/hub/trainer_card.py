"""`Trainer.push_to_hub` of a compressed model: our card, with the Trainer's account of the training in it."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from ..modeling.methods import CompressedModel

logger = logging.getLogger(__name__)

_TRAINING = "## Training procedure"
_INSTALLED = "_writes_lighttoken_card"
_WRITING = "_lighttoken_writes_card"


def keep_card_under_trainer() -> None:
    """Lets every Trainer of this process write our card where its model is compressed; other models keep theirs.

    Trainer makes its card between saving the model and uploading the folder, and leaves no other way in. Subclasses
    that make a card of their own, as those of TRL do, are served too; one that is defined later, at the next save.
    """
    module = sys.modules.get("transformers.trainer")
    for trainer_class in _with_subclasses(module.Trainer) if module is not None else ():
        own = vars(trainer_class).get("create_model_card")
        if own is not None and not hasattr(own, _INSTALLED):
            trainer_class.create_model_card = _followed_by_ours(own)


def _with_subclasses(trainer_class: type) -> Iterator[Any]:
    yield trainer_class
    for subclass in trainer_class.__subclasses__():
        yield from _with_subclasses(subclass)


def _followed_by_ours(own: Callable[..., None]) -> Callable[..., None]:
    """A `create_model_card` that puts our card in the place of the Trainer's; the outermost call decides."""

    @wraps(own)
    def create_model_card(trainer: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(trainer, _WRITING, False):
            return own(trainer, *args, **kwargs)
        setattr(trainer, _WRITING, True)
        try:
            own(trainer, *args, **kwargs)
        finally:
            delattr(trainer, _WRITING)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if trainer.is_world_process_zero() and isinstance(model, CompressedModel):
            bound = inspect.signature(own).bind(trainer, *args, **kwargs)
            _write_card_where_possible(trainer, model, {**bound.arguments, **bound.kwargs})

    setattr(create_model_card, _INSTALLED, True)
    return create_model_card


def _write_card_where_possible(trainer: Any, model: Any, given: Mapping[str, Any]) -> None:
    """Writes our card; a run that pushes nothing goes on with the Trainer's where ours cannot be made."""
    from .errors import HubError

    try:
        _write_card(trainer, model, given.get("language"), given.get("license"), given.get("tags"))
    except (ValueError, ImportError, HubError) as error:
        if getattr(trainer, "hub_model_id", None) is not None:
            raise
        logger.warning("The card stays as Trainer made it, because that of a compressed model cannot be: %s", error)


def _write_card(trainer: Any, model: Any, language: Any, license: Any, tags: Any) -> None:
    """Puts our card, with the arguments of `create_model_card` that it can use, in the Trainer's output folder."""
    from huggingface_hub import HfApi

    from ..checkpoint.compressed import read_compressed
    from ..checkpoint.files import list_files
    from ..checkpoint.source import SourceError
    from ..report import compression_report
    from .base_card import BaseCard, read_card
    from .facts import CardWishes, gather_facts
    from .model_push import origin_of
    from .push import documents

    folder = Path(trainer.args.output_dir)
    try:
        checkpoint = read_compressed(folder)
    except SourceError:
        logger.warning("%s holds no compressed checkpoint yet: save the model before its card is made.", folder)
        return
    api = HfApi(token=trainer.args.hub_token)
    name, base_card = origin_of(model, api)
    training = (folder / "README.md").read_text(encoding="utf-8").partition(_TRAINING)[2].strip()
    wishes = CardWishes(
        license=license,
        language=language,
        base_model=name,
        tags=["generated_from_trainer"] if tags is None else [tags] if isinstance(tags, str) else list(tags),
        training=training,
        base_card=replace(base_card or read_card(folder) or BaseCard(), pipeline_tag=None),  # the Hub infers it
    )
    repo_id = getattr(trainer, "hub_model_id", None) or trainer.args.hub_model_id or folder.resolve().name
    report = compression_report(folder)
    facts = gather_facts(api, checkpoint, report, repo_id, wishes, files=list_files(folder))
    for path, content in documents(facts).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(bytes(content))  # pyright: ignore[reportArgumentType]
