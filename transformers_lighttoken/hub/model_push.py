"""`model.push_to_hub` of a compressed model: as `push_compressed`, with the card of the checkpoint it came from."""

import json
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from transformers import PreTrainedModel

from ..checkpoint.files import CONFIG
from .base_card import BaseCard, as_repo_id, fetch_card, fetch_file, read_card, read_unless_restricted
from .client import hub_api
from .facts import CardWishes
from .options import PushOptions
from .push import push_checkpoint
from .results import Evaluation


def push_model(
    model: PreTrainedModel,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str | None = "50GB",
    tags: str | Sequence[str] | None = None,
    license: str | list[str] | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    base_model: str | None = None,
    language: str | list[str] | None = None,
    evaluation: Evaluation | Sequence[Evaluation] | None = None,
    folder: Path | None = None,
    written: Collection[str] | None = None,
) -> CommitInfo:
    """Pushes a compressed model from memory, without its tokenizer, as transformers does.

    Args:
        model: compressed.
        repo_id: `namespace/name`.
        commit_message: title of the commit.
        commit_description: of the commit.
        private: whether a repository that is created is private.
        token: with write permission; the one that is logged in when None or True.
        revision: branch to push to.
        create_pr: opens a pull request instead of committing.
        max_shard_size: of the files of the model.
        tags: for the card, beside ours and `model.model_tags`.
        license: of the model; that of the model it was loaded from when None.
        license_name: with the license "other".
        license_link: with the license "other".
        base_model: repository of the model that was compressed; what is known of it when None.
        language: of the model; that of the model it was loaded from when None.
        evaluation: JSON files of `lighttoken evaluate`, or what they hold.
        folder: where the model has been saved already; saved anew when None.
        written: the files there that belong to the model; all when None.

    Returns:
        The commit.

    Raises:
        ValueError: if no licence is known; pass `license=`.
        HubError: if the Hub, or the connection to it, fails, or the token may not write.
    """
    origin = origin_of(model, hub_api(token), needs_licence=license is None)
    wishes = CardWishes(
        license=license,
        license_name=license_name,
        license_link=license_link,
        base_model=base_model or origin.base_model,
        language=language,
        evaluation=evaluation,
        tags=all_tags(model, tags),
        base_card=origin.card,
        has_base_head=origin.has_same_head,
    )
    options = PushOptions(private, revision, create_pr, token, commit_message, commit_description)
    if folder is not None:
        return push_checkpoint(folder, repo_id, wishes, options, written)
    with tempfile.TemporaryDirectory() as new:
        model.save_pretrained(new, max_shard_size=max_shard_size or "50GB")
        return push_checkpoint(Path(new), repo_id, wishes, options)


def all_tags(model: PreTrainedModel, tags: str | Sequence[str] | None) -> tuple[str, ...]:
    """The tags that a model carries, and those that the user gives."""
    carried, given = ([each] if isinstance(each, str) else each or () for each in (model.model_tags, tags))
    return tuple(dict.fromkeys([*carried, *given]))


@dataclass(frozen=True)
class Origin:
    """Where a model was loaded from.

    Attributes:
        base_model: the base model, if that is known from it.
        card: that lies there.
        has_same_head: whether the model has the head that is stored there.
    """

    base_model: str | None = None
    card: BaseCard | None = None
    has_same_head: bool = False


def origin_of(model: PreTrainedModel, api: HfApi, *, needs_licence: bool = True) -> Origin:
    """Where a model was loaded from.

    A model that was loaded from a compressed checkpoint inherits from that one's card, a model that was compressed in
    memory from the dense model's.

    Args:
        model: compressed.
        api: the client.
        needs_licence: whether the licence has to come from there.

    Raises:
        RestrictedError: if the licence is needed, and the card there may not be read.
        HubError: if the Hub has to be asked, and fails.
    """
    source = getattr(model.config, "_name_or_path", "") or ""
    if not source:
        return Origin()
    if Path(source).is_dir():
        return Origin(None, read_card(Path(source)), _has_head_of(model, Path(source) / CONFIG))
    if as_repo_id(source) is None:
        return Origin()
    commit = getattr(model.config, "_commit_hash", None)

    def read() -> tuple[BaseCard | None, bool]:
        return fetch_card(api, source, commit), _has_head_of(model, fetch_file(api, source, CONFIG, commit))

    card, same_head = read_unless_restricted(source, needs_licence, read) or (None, False)
    if card is not None and card.base_model:
        return Origin(card.base_model, card, same_head)
    provenance = getattr(getattr(model.config, "quantization_config", None), "provenance", None) or {}
    # A checkpoint that was loaded compressed is no base of itself; what it was made from may not be recorded.
    base_model = as_repo_id(provenance.get("source")) or (None if provenance.get("tables") else source)
    return Origin(base_model, card, same_head)


def _has_head_of(model: PreTrainedModel, config: Path | None) -> bool:
    """Whether a config.json names the model's own class."""
    try:
        stored = json.loads(config.read_text(encoding="utf-8")) if config is not None else None
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and stored.get("architectures") == [type(model).__name__]
