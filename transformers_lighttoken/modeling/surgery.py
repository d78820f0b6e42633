"""Replacing a model's token-embedding modules by compressed ones, and back."""

from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from ..coding.table import CompressedTable
from ..config import TiePolicy
from .embedding import LightTokenEmbedding
from .head import LightTokenHead, LightTokenView
from .kind import EmbeddingKind
from .lazy_weight import LazyWeight
from .sites import TableSite, declared_ties, embedding_at, owners

_DROPPED_TIES = "_lighttoken_dropped_ties"


def share_heads(site: TableSite, tie_policy: TiePolicy) -> TableSite:
    """The site as a tie policy wants it: with its heads, or without them where they stay dense.

    Raises:
        ValueError: for the policy "error", if the table has a tied head.
    """
    if site.heads and tie_policy == "error":
        raise ValueError(
            f"the output head {site.heads[0]!r} shares the table {site.owner!r} and tie_policy is 'error': choose "
            "'share' to code both once, or 'dense' to leave the head as it is."
        )
    return replace(site, heads=()) if tie_policy == "dense" else site


def swap_in(model: PreTrainedModel, site: TableSite, new: LightTokenEmbedding) -> None:
    """Puts a compressed embedding in the place of a dense one, and views and heads over it beside.

    Args:
        model: changed in place.
        site: what to replace; a tied head that the site leaves out becomes independent of the table.
        new: owner of the table.
    """
    drop_ties(model, site)
    _replace(model, site.owner, new)
    for name in site.views:
        _replace(model, name, LightTokenView(new, EmbeddingKind.of(model.get_submodule(name), name)))
    for name in site.heads:
        head = model.get_submodule(name)
        if type(head) is nn.Linear:
            _replace(model, name, LightTokenHead(new, head.bias))
        else:  # its own code then reads the compressed weight
            head._parameters.pop("weight", None)
            object.__setattr__(head, "weight", LazyWeight(new))


def swap_embedding(model: PreTrainedModel, site: TableSite, table: CompressedTable) -> LightTokenEmbedding:
    """Puts a finished table in the place of a dense one, in the dense one's dtype and on its device."""
    old = embedding_at(model, site.owner)
    new = LightTokenEmbedding.from_table(table, EmbeddingKind.of(old, site.owner), old.weight.dtype, old.weight.device)
    new.exact_rows.requires_grad_(new.exact_rows.requires_grad and old.weight.requires_grad)
    swap_in(model, site, new)
    return new


def heads_of_absent_tables(model: nn.Module) -> dict[str, LightTokenHead]:
    """Output heads that share a table which is in the model no more: a copy of it was put there, as PEFT does.

    Raises:
        ValueError: if something else shares such a table, which no file could say.
    """
    present, heads = {id(owner) for owner in owners(model).values()}, {}
    for name, module in model.named_modules():
        lazy = vars(module).get("weight")
        owner = lazy.owner if isinstance(lazy, LazyWeight) else vars(module).get("owner")
        if owner is None or id(owner) in present:
            continue
        if not isinstance(module, LightTokenHead):
            raise ValueError(
                f"{name!r} uses a compressed table that is not in the model any more, because another embedding was "
                "put in its place: train adapters without modules_to_save on this table, whose decoder, row scales "
                "and exact rows train in the model itself."
            )
        heads[name] = module
    return heads


def restore_dense(model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
    """Puts ordinary modules with the decoded tables back, tied as they were.

    Args:
        model: changed in place.
        dtype: of the dense tables; the model's when None.
    """
    for name, head in heads_of_absent_tables(model).items():
        _replace(model, name, head.untied().to(dtype))
    for name, owner in owners(model).items():
        dense = owner.table.decode_all(dtype or owner.exact_rows.dtype)
        weight = nn.Parameter(dense)
        for other, module in list(model.named_modules()):
            if isinstance(module, LightTokenView) and module.owner is owner:
                _replace(model, other, module.kind.resized(owner.num_embeddings).dense_module(weight))
            elif isinstance(module, LightTokenHead) and module.owner is owner:
                _replace(model, other, module.dense_module(weight))
            elif isinstance(lazy := vars(module).get("weight"), LazyWeight) and lazy.owner is owner:
                object.__delattr__(module, "weight")
                module.register_parameter("weight", weight)
        _replace(model, name, owner.kind.dense_module(weight))
    _restore_ties(model)


def heads_in_use(model: nn.Module) -> dict[str, list[str]]:
    """The output heads that share each compressed table, by the name of the table's owner."""
    heads: dict[str, list[str]] = {name: [] for name in owners(model)}
    names = {id(owner): name for name, owner in owners(model).items()}
    for name, module in model.named_modules():
        lazy = vars(module).get("weight")
        shared = module if isinstance(module, LightTokenHead) else lazy if isinstance(lazy, LazyWeight) else None
        if shared is not None and id(shared.owner) in names:
            heads[names[id(shared.owner)]].append(name)
    return heads


def sharing_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that own a table or view one, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, (LightTokenEmbedding, LightTokenView))}


def put_back(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    """Puts modules back where a model's own code has replaced them: T5 and BART set the owner in every place."""
    for name, module in modules.items():
        if model.get_submodule(name) is not module:
            _replace(model, name, module)


def drop_ties(model: PreTrainedModel, site: TableSite) -> None:
    """Takes a table's ties out of the model's own bookkeeping, which would tie parameters that no longer exist."""
    ties = declared_ties(model)
    source = next((ties[name] for name in site.weight_names if name in ties), f"{site.owner}.weight")
    gone = site.weight_names | {source} | {target for target, tie in ties.items() if tie == source}
    for prefix, part in model.named_modules():
        if not isinstance(part, PreTrainedModel):
            continue
        dot = f"{prefix}." if prefix else ""
        expanded = part.get_expanded_tied_weights_keys()
        dropped = {t: s for t, s in expanded.items() if dot + t in gone or dot + s in gone}
        if dropped:
            part._tied_weights_keys = {t: s for t, s in expanded.items() if t not in dropped}
            setattr(part, _DROPPED_TIES, getattr(part, _DROPPED_TIES, {}) | dropped)
        known = part.all_tied_weights_keys
        part.all_tied_weights_keys = {t: s for t, s in known.items() if dot + t not in gone and dot + s not in gone}


def _restore_ties(model: PreTrainedModel) -> None:
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    for part in parts:
        if hasattr(part, _DROPPED_TIES):
            part._tied_weights_keys = {**part._tied_weights_keys, **getattr(part, _DROPPED_TIES)}
            delattr(part, _DROPPED_TIES)
    for part, declared in [(part, declared_ties(part)) for part in parts]:
        part.all_tied_weights_keys = {
            t: s for t, s in declared.items() if part.get_parameter_or_buffer(t) is part.get_parameter_or_buffer(s)
        }
        # Where the model has further ties (T5's embeddings, BERT's biases), those would come apart with this one.
        if declared and not part.all_tied_weights_keys:
            part.config.tie_word_embeddings = False


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    old = model.get_submodule(name)
    new.train(old.training)
    hook = getattr(old, "_hf_hook", None)
    if hook is not None:
        from accelerate.hooks import add_hook_to_module

        add_hook_to_module(new, hook)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
