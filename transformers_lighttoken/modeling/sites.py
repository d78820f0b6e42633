"""Where a model holds token-embedding tables, and which of its modules share each."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from .embedding import LightTokenEmbedding
from .kind import EmbeddingKind


@dataclass(frozen=True)
class TableSite:
    """One token-embedding table and the modules that use it, by their names in the model.

    Attributes:
        owner: the embedding that is to own the table: the source of the tie.
        views: further input embeddings tied to it.
        heads: output heads tied to it, and other modules that read its weight as theirs.
    """

    owner: str
    views: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @property
    def weight_names(self) -> set[str]:
        """Names of the parameters that are this table."""
        return {f"{name}.weight" for name in (self.owner, *self.views, *self.heads)}


def find_sites(model: PreTrainedModel, modules_to_not_convert: list[str] | None = None) -> list[TableSite]:
    """Finds the token-embedding tables of a dense model.

    `get_input_embeddings()` of the model names the table; where a model has none (CLIPModel), its parts are asked.

    Args:
        model: dense; on the meta device, where nothing is tied yet, the model's declared ties count.
        modules_to_not_convert: names, or ends of names, of embeddings to leave dense.

    Returns:
        One site per table.

    Raises:
        UnsupportedEmbeddingError: if a table's module, or one tied to it, cannot be replaced faithfully.
    """
    _check_patterns(model, modules_to_not_convert or [])
    sites: dict[str, TableSite] = {}
    for embedding in _input_embeddings(model):
        site = _site_of(model, embedding)
        if not _is_excluded(site, modules_to_not_convert or []):
            sites.setdefault(site.owner, site)
    for site in sites.values():
        for name in (site.owner, *site.views):
            EmbeddingKind.of(model.get_submodule(name), name)
    return list(sites.values())


def embedding_at(model: nn.Module, name: str) -> nn.Embedding:
    """The embedding module of this name."""
    return cast(nn.Embedding, model.get_submodule(name))


def owners(model: nn.Module) -> dict[str, LightTokenEmbedding]:
    """The compressed tables of a model, by the names of the modules that own them."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LightTokenEmbedding)}


def declared_ties(model: PreTrainedModel) -> dict[str, str]:
    """Names of tied parameters, target to source, as the model's classes and config declare them."""
    return model.get_expanded_tied_weights_keys(all_submodels=True)


def _input_embeddings(model: PreTrainedModel) -> Iterator[nn.Embedding]:
    embedding = _input_embedding(model)
    if isinstance(embedding, nn.Embedding):
        yield embedding
        return
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and isinstance(embedding := _input_embedding(part), nn.Embedding):
            yield embedding


def _input_embedding(model: PreTrainedModel) -> nn.Module | None:
    try:
        return model.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # models of images and sound
        return None


def _site_of(model: PreTrainedModel, embedding: nn.Embedding) -> TableSite:
    modules = dict(model.named_modules(remove_duplicate=False))
    name = next(name for name, module in modules.items() if module is embedding)
    ties = declared_ties(model)
    source = ties.get(f"{name}.weight", f"{name}.weight")
    if embedding.weight.is_meta:
        tied = [source, *(target for target, tie in ties.items() if tie == source)]
        names = [weight.removesuffix(".weight") for weight in tied]
    else:
        names = [other for other, module in modules.items() if getattr(module, "weight", None) is embedding.weight]
    source_name = source.removesuffix(".weight")
    owner = source_name if source_name in names and isinstance(modules[source_name], nn.Embedding) else name
    views = [other for other in names if other != owner and isinstance(modules[other], nn.Embedding)]
    heads = [other for other in names if other != owner and other not in views]
    return TableSite(owner, tuple(views), tuple(heads))


def _matches(pattern: str, name: str) -> bool:
    return re.search(rf"(^|\.){re.escape(pattern)}(\.|$)", name) is not None


def _check_patterns(model: nn.Module, patterns: list[str]) -> None:
    names = [name for name, _ in model.named_modules()]
    for pattern in patterns:
        if not any(_matches(pattern, name) for name in names):
            near = difflib.get_close_matches(pattern, {part for name in names for part in (name, name.split(".")[-1])})
            hint = f": did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"modules_to_not_convert names {pattern!r}, which no module of the model is called{hint}")


def _is_excluded(site: TableSite, patterns: list[str]) -> bool:
    return any(_matches(pattern, site.owner) for pattern in patterns)
