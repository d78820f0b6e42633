"""The licence of a compressed model: the user's word, else the base model's, never a default."""

from collections.abc import Collection
from dataclasses import dataclass

from .base_card import ADDRESS, CARD, FILE, WORD, BaseModel, address_of
from .markup import one_line


@dataclass(frozen=True)
class Licence:
    """A licence as a card names it.

    Attributes:
        license: its identifier on the Hub, or several.
        license_name: where the identifier is "other".
        license_link: an address, or a file of the repository.
        inherited: whether it is the base model's.
    """

    license: str | list[str]
    license_name: str | None = None
    license_link: str | None = None
    inherited: bool = True


def choose_licence(
    license: str | list[str] | None, name: str | None, link: str | None, base: BaseModel, files: Collection[str]
) -> Licence:
    """The licence that the card names.

    Args:
        license: as the user gives it.
        name: as the user gives it.
        link: as the user gives it.
        base: the base model, which may name one.
        files: of the repository, to which a link may lead.

    Raises:
        ValueError: if what the user gives is malformed or not complete, or nothing is known.
    """
    if link is not None and not (ADDRESS.fullmatch(link) or FILE.fullmatch(link)):
        raise ValueError(f"license_link must be an address or the name of a file, got {one_line(link)!r}.")
    if license is None:
        if name or link:
            given = "license_name" if name else "license_link"
            raise ValueError(f"{given} comes with a licence of the user's own: pass license='other' with it.")
        return _inherited(base, files)
    if not license:
        raise ValueError(f"license must name at least one licence, got {license!r}: leave it out to take the base's.")
    several = [license] if isinstance(license, str) else license
    for one in several:
        if not isinstance(one, str) or not WORD.fullmatch(one):
            raise ValueError(f"license must be an identifier of the Hub such as 'apache-2.0', got {one_line(one)!r}.")
    if "other" in several and not (name and link):
        missing = "license_link" if name else "license_name"
        raise ValueError(f"license 'other' says nothing without its name and link: pass {missing}= too.")
    return Licence(license, one_line(name) if name else None, link, inherited=False)


def _inherited(base: BaseModel, files: Collection[str]) -> Licence:
    """The licence of the base model; that of the same model's earlier card where that is what is known."""
    card = base.card
    if card.license is None:
        where = f"in a card of {base.name}" if base.name else "in any card of a base model"
        raise ValueError(
            f"license is not known: none was found {where}, and none was given. Look up the base model's licence "
            "and pass it: license='apache-2.0', say (on the command line --license)."
        )
    link = _reachable(card.license_link, base, files)
    return Licence(card.license, card.license_name, link, inherited=not card.is_ours or card.licence_is_inherited)


def _reachable(link: str | None, base: BaseModel, files: Collection[str]) -> str | None:
    """A link that leads somewhere from here: a file that did not come along is in the base model's repository."""
    if link is None or ADDRESS.fullmatch(link) or (link in files and link != CARD):  # the card is one of our own
        return link
    return f"{address_of(base.name)}/blob/{base.revision or 'main'}/{link}" if base.name else None
