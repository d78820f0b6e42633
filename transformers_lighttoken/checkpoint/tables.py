"""Finding the token-embedding tables among a checkpoint's tensors, without loading the model."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from ..coding.plan import EXACT_DTYPES
from ..config import LightTokenConfig
from ..modeling.sites import TableSite, find_sites
from ..modeling.surgery import share_heads
from .source import SourceError
from .tensor_file import DTYPES, StoredTensor
from .weights import Weights

logger = logging.getLogger(__name__)

_TABLE_DTYPES = {*EXACT_DTYPES.values(), torch.float64}


@dataclass(frozen=True)
class TableSource:
    """A token-embedding table of a dense checkpoint.

    Attributes:
        site: the modules that are to use the compressed table.
        prefix: the owner's place in the files, under which the compressed table's tensors are stored.
        weight: the stored table.
        keys: names under which the files hold it; more than one where tied weights are stored again. All of them give
            way to the compressed table.
        dense_heads: names in the files of tied output heads that stay dense, each with its bytes: those of the table
            where the files do not hold the head itself.
    """

    site: TableSite
    prefix: str
    weight: StoredTensor
    keys: tuple[str, ...]
    dense_heads: dict[str, StoredTensor]


def build_skeleton(folder: Path) -> PreTrainedModel:
    """The model that a checkpoint's config.json describes, without weights: on the meta device.

    Raises:
        SourceError: if transformers does not know the model.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise SourceError(f"transformers {transformers.__version__} cannot read config.json: {error}") from error
    architecture = next(iter(getattr(config, "architectures", None) or ()), "")
    model_class = getattr(transformers, architecture, None)
    with torch.device("meta"):
        if isinstance(model_class, type) and issubclass(model_class, PreTrainedModel):
            return model_class(config)
        try:
            return AutoModel.from_config(config, trust_remote_code=False)
        except ValueError as error:
            raise SourceError(
                f"transformers {transformers.__version__} knows no model for architecture {architecture!r} "
                f"(model_type {config.model_type!r}); code from the checkpoint itself is not run."
            ) from error


def find_tables(skeleton: PreTrainedModel, weights: Weights, config: LightTokenConfig) -> list[TableSource]:
    """Finds the tables that a config wants compressed.

    Args:
        skeleton: the model without weights.
        weights: of its checkpoint.
        config: what to compress.

    Returns:
        One entry per table.

    Raises:
        SourceError: if there is no table, the files do not hold what the model needs, or config.json does not say
            whether an output head shares the table.
        ValueError: for a tied head where the policy is "error".
        UnsupportedEmbeddingError: if a module cannot be replaced faithfully.
    """
    excluded = config.modules_to_not_convert
    sites = find_sites(skeleton, excluded)
    _check_architecture(skeleton, weights)
    if not sites:
        left_out = f" once modules_to_not_convert={excluded!r} is left out" if excluded else ""
        raise SourceError(f"{type(skeleton).__name__} has no token-embedding table to compress{left_out}.")
    key_of = _keys_by_parameter(skeleton, weights)
    return [_table_at(site, skeleton, weights, key_of, config) for site in sites]


def _check_architecture(skeleton: PreTrainedModel, weights: Weights) -> None:
    """Refuses the files of a model with a head whose class config.json does not name: the head may share the table."""
    config, name = skeleton.config, type(skeleton).__name__
    if config.architectures:
        if name not in config.architectures:
            logger.warning(
                "config.json gives architectures=%r, no class of transformers: read as %s. An output head of its own "
                "that shares the table is not accounted for.", config.architectures, name
            )  # fmt: skip
        return
    prefix = f"{skeleton.base_model_prefix}."
    within = prefix != "." and any(key.startswith(prefix) for key in weights.tensors)
    has_head = within and not any(key.startswith(prefix) for key in skeleton.state_dict())
    if has_head or config.is_encoder_decoder:
        raise SourceError(
            f"config.json names no architecture, so whether an output head shares the token-embedding table of {name} "
            'cannot be told: put the model\'s class there, as in "architectures": ["GPT2LMHeadModel"].'
        )


def _keys_by_parameter(skeleton: PreTrainedModel, weights: Weights) -> dict[str, str]:
    """Name of a parameter in the model -> name in the files, as transformers would load it."""
    mapping = get_model_conversion_mapping(skeleton)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    parameters = skeleton.state_dict()
    prefix = skeleton.base_model_prefix
    keys = {}
    for key in weights.tensors:
        name, _ = rename_source_key(key, renamings, converters, prefix, parameters)
        if name not in parameters and key in parameters:
            name, _ = rename_source_key(key, [], [], prefix, parameters)
        keys[name] = key
    return keys


def _table_at(
    site: TableSite,
    skeleton: PreTrainedModel,
    weights: Weights,
    key_of: dict[str, str],
    config: LightTokenConfig,
) -> TableSource:
    names = [f"{module}.weight" for module in (site.owner, *site.views, *site.heads)]
    stored = {name: weights.tensors[key_of[name]] for name in names if name in key_of}
    if not stored:
        raise SourceError(f"the files hold no tensor {names[0]!r}, which {type(skeleton).__name__} needs.")
    weight = next(iter(stored.values()))
    _check_table(weight, tuple(skeleton.get_parameter(f"{site.owner}.weight").shape))
    # transformers ties what is declared as tied, unless the files hold two different tensors.
    untied = {name for name, tensor in stored.items() if tensor is not weight and not tensor.same_bytes(weight)}
    for view in site.views:
        if f"{view}.weight" in untied:
            raise SourceError(
                f"the model declares {view!r} and {site.owner!r} as tied, but the files hold different tensors for "
                f"them. Leave the table dense with modules_to_not_convert=[{site.owner!r}]."
            )
    tied = TableSite(site.owner, site.views, tuple(head for head in site.heads if f"{head}.weight" not in untied))
    shared = share_heads(tied, config.tie_policy)
    dense = [f"{head}.weight" for head in tied.heads if head not in shared.heads]
    keys = [tensor.key for name, tensor in stored.items() if name not in untied and name not in dense]
    return TableSource(
        site=shared,
        prefix=key_of.get(names[0], names[0]).removesuffix(".weight"),
        weight=weight,
        keys=tuple(keys),
        dense_heads={key_of.get(name, name): stored.get(name, weight) for name in dense},
    )


def _check_table(weight: StoredTensor, expected: tuple[int, ...]) -> None:
    if weight.shape != expected:
        raise SourceError(
            f"{weight.path.name} holds {weight.key!r} as {weight.shape}, but config.json makes it {expected}: they "
            "belong to different models, or vocab_size was edited."
        )
    if DTYPES.get(weight.dtype) not in _TABLE_DTYPES:
        raise SourceError(
            f"{weight.path.name} holds {weight.key!r} as {weight.dtype}: LightToken compresses tables in float32, "
            "float16, bfloat16 or float64."
        )
