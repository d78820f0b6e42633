"""The card of a compressed model under Trainer: ours, with the Trainer's account of the training in it."""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any

from ..checkpoint.compressed import read_compressed
from ..checkpoint.files import list_files
from ..checkpoint.identity import checkpoint_identity
from ..checkpoint.source import SourceError
from ..modeling.methods import CompressedModel
from ..report import compression_report
from .base_card import CARD, BaseCard, read_card
from .client import HubClient, hub_api
from .errors import HubError
from .facts import CardWishes, gather_facts
from .model_push import all_tags, origin_of
from .publication import results_to_publish
from .push import OURS, documents
from .results import FILE_NAME, Evaluated, read_published
from .target import MAIN, Target
from .training import TrainingAccount
from .training_args import keep_token_out

logger = logging.getLogger(__name__)

_WRITING = "_lighttoken_writes_card"
_WROTE = "_lighttoken_wrote_card"
PUSHING = "_lighttoken_push"
"""Attribute of a Trainer that pushes: what it was given (`Pushing`)."""


@dataclass(frozen=True)
class Pushing:
    """What `Trainer.push_to_hub` was given, which it does not tell its card.

    Attributes:
        token: of the user; that of the training arguments when None.
        revision: branch to push to; that of the training arguments when None.
        private: whether a repository that is created is private; that of the training arguments when None.
        license_name: with the license "other".
        license_link: with the license "other".
        client: of the repository, where it has been looked up.
        target: what is there.
    """

    token: str | None = field(default=None, repr=False)
    revision: str | None = None
    private: bool | None = None
    license_name: str | None = None
    license_link: str | None = None
    client: HubClient | None = None
    target: Target | None = None

    @classmethod
    def of(cls, trainer: Any) -> "Pushing":
        """What a Trainer's push was given, completed by its training arguments."""
        given: Pushing = getattr(trainer, PUSHING, None) or cls()
        arguments = trainer.args
        return replace(
            given,
            token=given.token or arguments.hub_token,
            revision=given.revision or getattr(arguments, "hub_revision", None),
            private=arguments.hub_private_repo if given.private is None else given.private,
        )


def followed_by_ours(own: Callable[..., None]) -> Callable[..., None]:
    """A `create_model_card` that puts our card in the place of the Trainer's; the outermost call decides."""

    @wraps(own)
    def create_model_card(trainer: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(trainer, _WRITING, False):
            return own(trainer, *args, **kwargs)
        # A folder that is used again may hold the card of another model.
        earlier = read_card(Path(trainer.args.output_dir)) if hasattr(trainer, _WROTE) else None
        setattr(trainer, _WRITING, True)
        try:
            own(trainer, *args, **kwargs)
        finally:
            delattr(trainer, _WRITING)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if trainer.is_world_process_zero() and isinstance(model, CompressedModel):
            keep_token_out(trainer, Path(trainer.args.output_dir))
            _write_card_where_possible(trainer, model, arguments(own, trainer, *args, **kwargs), earlier)

    return create_model_card


def arguments(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What a function is given, by the names of its parameters."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    return {**bound.arguments, **bound.kwargs}


def _write_card_where_possible(trainer: Any, model: Any, given: Mapping[str, Any], earlier: BaseCard | None) -> None:
    """Writes our card; a run that pushes nothing goes on with the Trainer's where ours cannot be made."""
    try:
        _write_card(trainer, model, given, earlier)
    except (ValueError, ImportError, HubError) as error:
        if getattr(trainer, "hub_model_id", None) is not None:
            raise
        logger.warning("The card stays as Trainer made it, because that of a compressed model cannot be: %s", error)


def _write_card(trainer: Any, model: Any, given: Mapping[str, Any], earlier: BaseCard | None) -> None:
    """Puts our card, with the arguments of `create_model_card`, in the Trainer's output folder."""
    folder = Path(trainer.args.output_dir)
    try:
        checkpoint = read_compressed(folder)
    except SourceError:
        logger.warning("%s holds no compressed checkpoint yet: save the model before its card is made.", folder)
        return
    pushing = Pushing.of(trainer)
    api = hub_api(pushing.token)
    origin = origin_of(model, api, needs_licence=not given.get("license"))
    tags = given.get("tags")
    wishes = CardWishes(
        license=given.get("license"),
        license_name=pushing.license_name,
        license_link=pushing.license_link,
        language=given.get("language"),
        base_model=origin.base_model,
        tags=all_tags(model, "generated_from_trainer" if tags is None else tags),
        training=TrainingAccount.read((folder / CARD).read_text(encoding="utf-8"), given),
        base_card=origin.card or earlier or read_card(folder),
        has_base_head=origin.has_same_head,
    )
    known = pushing.client.repo_id if pushing.client else None
    repo_id = known or getattr(trainer, "hub_model_id", None) or trainer.args.hub_model_id or folder.resolve().name
    facts = gather_facts(
        api,
        checkpoint,
        compression_report(folder),
        repo_id,
        wishes,
        revision=None if pushing.revision == MAIN else pushing.revision,
        files=list_files(folder),
        evaluated=_evaluated(folder, pushing),
    )
    made = documents(facts)
    for path in OURS - made.keys():
        (folder / path).unlink(missing_ok=True)
    for path, content in made.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(bytes(content))  # pyright: ignore[reportArgumentType]
    setattr(trainer, _WROTE, True)


def _evaluated(folder: Path, pushing: Pushing) -> Evaluated:
    """What was published of the same state of the model: training makes another one of it."""
    if pushing.client is not None and pushing.target is not None:
        files: dict[str, Path | bytes] = {name: folder / name for name in list_files(folder) if "/" not in name}
        return results_to_publish(pushing.client, pushing.target, folder, files, None)
    path = folder / FILE_NAME
    return read_published(path.read_bytes(), checkpoint_identity(folder)) if path.is_file() else Evaluated()
