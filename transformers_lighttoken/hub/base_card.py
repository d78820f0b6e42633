"""What a compressed model inherits from the card of its base model: licence, language, task."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id

from .errors import MALFORMED, HubError, call_hub
from .markup import one_line
from .restricted import RestrictedError, explain_restriction
from .target import has_hash

logger = logging.getLogger(__name__)

T = TypeVar("T")

CARD = "README.md"
TAGS = ("lighttoken", "compressed")
RELATION = "quantized"
OF_THE_BASE = ", that of the base model"
"""How our card goes on after the licence that it has from the base model."""
_LARGEST_CARD = 4 << 20
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,79}")
LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,30}")
ADDRESS = re.compile(r"https?://[^\s<>\"'`\\|]{1,300}")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
COMMIT = re.compile(r"[0-9a-f]{7,40}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MORE_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_:/-]{0,79}")
_INHERITED_LICENCE = re.compile(rf"^Licence: .*{OF_THE_BASE}\.$", re.MULTILINE)
_BY_US = "compressed by\n[LightToken]("  # as the template has it; a tag may have been removed by hand
_AUTOMATIC_TAGS = {*TAGS, "sentence-transformers"}
_NOT_THERE = (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError)


@dataclass(frozen=True)
class BaseCard:
    """What a card says, as far as it is well-formed.

    Attributes:
        license: identifier of the licence, or several.
        license_name: where the identifier is "other".
        license_link: an address, or the name of a file beside the card.
        language: codes of languages.
        pipeline_tag: the task.
        base_model: the base model that our card of a compressed model names; None in a base model's own card.
        is_ours: whether it is our card of a compressed model, and not a base model's.
        licence_is_inherited: whether our card calls the licence that of the base model.
        tags: beside ours, in our card.
    """

    license: str | list[str] | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: str | list[str] | None = None
    pipeline_tag: str | None = None
    base_model: str | None = None
    is_ours: bool = False
    licence_is_inherited: bool = False
    tags: tuple[str, ...] = ()

    @classmethod
    def parse(cls, content: str) -> "BaseCard":
        """Reads the front matter of a card; what is damaged in it counts as not there."""
        data = _front_matter(content)
        tags = _texts(data.get("tags"), MORE_TAG)
        tags = tags if isinstance(tags, list) else []
        ours = TAGS[0] in tags or _BY_US in content
        of_base = ours and data.get("base_model_relation") == RELATION
        return cls(
            license=_licences(data.get("license")),
            license_name=one_line(data["license_name"]) if isinstance(data.get("license_name"), str) else None,
            license_link=_text(data.get("license_link"), ADDRESS) or _text(data.get("license_link"), FILE),
            language=_texts(data.get("language"), LANGUAGE),
            pipeline_tag=_text(data.get("pipeline_tag"), WORD),
            base_model=as_repo_id(data.get("base_model")) if of_base else None,
            is_ours=ours,
            licence_is_inherited=ours and _INHERITED_LICENCE.search(content) is not None,
            tags=tuple(tag for tag in tags if tag not in _AUTOMATIC_TAGS) if ours else (),
        )


@dataclass(frozen=True)
class BaseModel:
    """The model that was compressed, as far as it is known.

    Attributes:
        name: repository on the Hub.
        revision: commit there.
        card: what its card says.
    """

    name: str | None = None
    revision: str | None = None
    card: BaseCard = field(default_factory=BaseCard)


def find_base(
    api: HfApi,
    folder: Path,
    *,
    name: str | None = None,
    recorded: str | None = None,
    revision: str | None = None,
    card: BaseCard | None = None,
    needs_licence: bool = True,
) -> BaseModel:
    """Finds the base model's name and card: the card in the folder first; that on the Hub if it names no licence.

    Args:
        api: the client.
        folder: where the card of the base model may have come along.
        name: the base model as the user gives it.
        recorded: the base model as it was recorded when the tables were made.
        revision: its commit, recorded with it.
        card: instead of the one in the folder.
        needs_licence: whether the licence has to come from the base model.

    Raises:
        ValueError: if `name` cannot be that of a repository.
        RestrictedError: if the licence is needed, and the base model's card may not be read.
        HubError: if the Hub has to be asked, and fails.
    """
    if name is not None and as_repo_id(name) is None:
        raise ValueError(f"base_model must be a repository on the Hub (namespace/name), got {one_line(name)!r}.")
    card = card or read_card(folder) or BaseCard()
    found = name or as_repo_id(recorded) or card.base_model
    commit = revision if found == recorded and isinstance(revision, str) and COMMIT.fullmatch(revision) else None
    if found and not card.license:
        fetched = read_unless_restricted(found, needs_licence, lambda: fetch_card(api, found, commit)) or BaseCard()
        # The licence is the base model's whole, not a mixture with what the card here says beside none.
        known = {key: value for key in ("language", "pipeline_tag") if (value := getattr(card, key)) is not None}
        card = replace(fetched, **known, tags=card.tags)
    return BaseModel(found, commit, card)


def read_card(folder: Path) -> BaseCard | None:
    """The card in a folder; None if there is none."""
    path = folder / CARD
    if not path.is_file() or path.stat().st_size > _LARGEST_CARD:
        return None
    return BaseCard.parse(path.read_text(encoding="utf-8-sig", errors="replace"))


def read_unless_restricted(repo_id: str, needs_licence: bool, read: Callable[[], T]) -> T | None:
    """What is read of a base model; None, with a warning, where it may not be read and its licence is not needed.

    Args:
        repo_id: its repository.
        needs_licence: whether the licence has to come from there.
        read: reads it.

    Raises:
        RestrictedError: if it may not be read, and the licence is needed.
    """
    try:
        return read()
    except RestrictedError:
        if needs_licence:
            raise
        logger.warning(
            "%s: access to it is restricted, so that what its card says of language and task is left out: pass "
            "language= (--language) where it is known.",
            repo_id,
        )
        return None


def fetch_card(api: HfApi, repo_id: str, revision: str | None = None) -> BaseCard | None:
    """The card of a repository on the Hub; None if there is none.

    Raises:
        RestrictedError: if it may not be read.
        HubError: if the Hub, or the connection to it, fails.
    """
    path = fetch_file(api, repo_id, CARD, revision)
    return read_card(path.parent) if path else None


def fetch_file(api: HfApi, repo_id: str, name: str, revision: str | None = None) -> Path | None:
    """A file of the base model's repository; None if it is not there.

    Raises:
        RestrictedError: if it may not be read.
        HubError: if the Hub, or the connection to it, fails.
    """
    action = f"read {name} of the base model"

    def download() -> Path | RestrictedError | None:
        try:
            path = Path(api.hf_hub_download(repo_id, name, revision=revision))
            if _is_damaged(path):
                path = Path(api.hf_hub_download(repo_id, name, revision=revision, force_download=True))
        except (HfHubHTTPError, EntryNotFoundError) as error:
            restricted = explain_restriction(error, action, repo_id)
            could_be_asked = not isinstance(error, LocalEntryNotFoundError)
            if restricted is None and not (could_be_asked and isinstance(error, _NOT_THERE)):
                raise
            return restricted
        if _is_damaged(path):
            raise HubError(f"{repo_id}: could not {action}, it arrives damaged. Repeat it.")
        return path

    found = call_hub(action, repo_id, download, malformed=MALFORMED)
    if isinstance(found, RestrictedError):  # raised here, it is not chained to the request that holds the token
        raise found
    return found


def _is_damaged(path: Path) -> bool:
    """Whether a file in the cache, which names what it keeps by hash, has another content; links may be missing."""
    file = path.resolve()
    return _HASH.fullmatch(file.name) is not None and not has_hash(file, file.name)


def as_repo_id(name: Any) -> str | None:
    """A name if it can be that of a repository on the Hub, else None."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def address_of(repo_id: str) -> str:
    """Where a repository can be looked at."""
    return f"{constants.ENDPOINT}/{repo_id}"


def _front_matter(content: str) -> Mapping[str, Any]:
    match = REGEX_YAML_BLOCK.search(content)
    try:
        data = yaml.load(match.group(2), Loader=yaml.BaseLoader) if match else None  # all scalars stay text: `no` too
    except (yaml.YAMLError, RecursionError) as error:
        logger.warning("The front matter of a card is no YAML, and is left aside: %s", one_line(error))
        return {}
    return data if isinstance(data, dict) else {}


def _text(value: Any, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _texts(value: Any, pattern: re.Pattern[str]) -> str | list[str] | None:
    if not isinstance(value, list):
        return _text(value, pattern)
    kept = list(dict.fromkeys(text for text in value if _text(text, pattern)))
    return kept[:200] or None


def _licences(value: Any) -> str | list[str] | None:
    """All of a card's licences, or None where one of them is none that the Hub knows by a word: not a part of them."""
    if isinstance(value, list) and not all(_text(text, WORD) for text in value):
        return None
    return _texts(value, WORD)
