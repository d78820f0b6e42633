"""The quantizer through which transformers loads, compresses and saves LightToken models."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.integrations.accelerate import load_offloaded_parameter
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer

from ..coding.plan import CodingPlan
from ..coding.table import CompressedTable
from ..config import FORMAT_VERSION, QUANT_METHOD, LightTokenConfig
from ..version import __version__
from .checkpoint import LATENTS, SENTINEL, CheckpointFiles, checkpoint_digest, matching_name, sentinel_pattern
from .embedding import LightTokenEmbedding, stored_tensors
from .errors import LightTokenCheckpointError
from .fitting import fit_tables, sites_to_compress, tokenizer_of
from .hub_methods import hub_methods
from .kind import EmbeddingKind
from .latents import rounded_tensors
from .methods import add_methods, remove_methods
from .sites import TableSite, embedding_at, find_sites, owners
from .surgery import heads_in_use, heads_of_absent_tables, restore_dense, swap_embedding, swap_in


class LightTokenQuantizer(HfQuantizer):
    """Loads compressed checkpoints, compresses dense ones on the fly, and saves what it holds.

    Args:
        quantization_config: copied, so that one config can serve several models.
        **kwargs: of HfQuantizer; `pre_quantized` says whether the checkpoint is compressed.

    Raises:
        ValueError: if a checkpoint's config names no tables.
    """

    requires_calibration = False

    def __init__(self, quantization_config: LightTokenConfig, **kwargs: Any) -> None:
        super().__init__(copy.deepcopy(quantization_config), **kwargs)
        self.quantization_config: LightTokenConfig
        self.given_state_dict: Mapping[str, Tensor] | None = None
        self.keeps_latents = False  # whether what is saved is a checkpoint of a training run
        self.files = CheckpointFiles([])
        if self.pre_quantized and not self.quantization_config.tables:
            raise LightTokenCheckpointError(
                "the checkpoint's quantization_config says quant_method 'lighttoken' but names no `tables`: remove "
                "quantization_config from config.json if the checkpoint is dense, else download it again."
            )

    @property
    def is_trainable(self) -> bool:
        """True: compressed models train as they are. Trainer asks when it is made."""
        methods = hub_methods()
        if methods is not None:
            methods.before_trainer()
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """True: without it transformers refuses any training but that of adapters."""
        return True

    @property
    def is_compileable(self) -> bool:
        """True."""
        return True

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """True."""
        return True

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> PreTrainedModel:
        if not self.pre_quantized:
            sites_to_compress(model, self.quantization_config)  # what cannot be compressed is refused before loading
            return model
        plans = _plans_of(self.quantization_config)
        matched = _matched(find_sites(model), plans)
        for site, name in matched:
            _check_shape(model, site, name, plans[name])
        files = self.files = CheckpointFiles(checkpoint_files or [])
        if files.file_of:
            files.check(plans, self.quantization_config)
        for site, name in matched:
            self._swap_empty(model, site, name, plans[name], files)
        return model

    def _swap_empty(
        self, model: PreTrainedModel, site: TableSite, name: str, plan: CodingPlan, files: CheckpointFiles
    ) -> None:
        old = embedding_at(model, site.owner)
        new = LightTokenEmbedding(plan, EmbeddingKind.of(old, site.owner), old.weight.dtype, device="meta")
        new.is_loading = True
        dense_heads = {head for head in site.heads if self._is_dense(head, files)}
        swap_in(model, TableSite(site.owner, site.views, tuple(h for h in site.heads if h not in dense_heads)), new)
        names = {name, site.owner} | ({files.prefix_of(name)} if files.file_of else set())
        ignored = {sentinel_pattern(sorted(names), rf"({SENTINEL}|{LATENTS}\..+)")}
        model._keys_to_ignore_on_load_unexpected = ignored | set(model._keys_to_ignore_on_load_unexpected or ())

    def _is_dense(self, head: str, files: CheckpointFiles) -> bool:
        if files.file_of:
            return files.holds(f"{head}.weight")
        return self.quantization_config.tie_policy == "dense"

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if self.pre_quantized:
            for name, owner in owners(model).items():
                _finish_loading(model, name, owner)
                self._make_latents(name, owner)
            _prepare_for_use(model)
        else:
            sites = sites_to_compress(model, self.quantization_config)
            tables = fit_tables(model, sites, self.quantization_config, tokenizer_of(model, sites))
            self.adopt(model, sites, tables)
        return model

    def _make_latents(self, name: str, owner: LightTokenEmbedding) -> None:
        """Makes what trains, with the values of the training run that the checkpoint was taken from."""
        if any(tensor.is_meta for tensor in owner.state_dict().values()):
            return  # offloaded: for inference only
        owner.train_parts(self.quantization_config.trained_parts)
        if owner.latents is not None and self.files.file_of:
            owner.latents.load_state_dict(self.files.latents_of(self.files.prefix_of(name)), strict=False)

    def adopt(self, model: PreTrainedModel, sites: list[TableSite], tables: Mapping[str, CompressedTable]) -> None:
        """Puts finished tables into a dense model, and marks it as transformers marks a quantized one.

        Args:
            model: changed in place.
            sites: where the tables belong.
            tables: by owner's name.
        """
        for site in sites:
            trains = embedding_at(model, site.owner).weight.requires_grad
            owner = swap_embedding(model, site, tables[site.owner])
            owner.train_parts(self.quantization_config.trained_parts, trains)
        self.pre_quantized = True
        marks = {"hf_quantizer": self, "is_quantized": True, "quantization_method": QUANT_METHOD}
        for name, mark in marks.items():
            setattr(model, name, mark)
        for part in model.modules():
            if isinstance(part, PreTrainedModel):
                part.config._is_quantized = True
        self.record_plans(model)

    def record_plans(self, model: PreTrainedModel) -> None:
        """Brings the model's config in line with its tables; the digest waits until the model is saved."""
        self._record(model, {name: owner.table.plan for name, owner in owners(model).items()}, stored=None)
        if "exact_rows" not in self.quantization_config.trained_parts:
            for owner in owners(model).values():
                owner.exact_rows.requires_grad_(False)
        _prepare_for_use(model)

    def _record(
        self, model: PreTrainedModel, plans: Mapping[str, CodingPlan], stored: Mapping[str, Tensor] | None
    ) -> None:
        config = self.quantization_config
        config.tables = {name: plan.to_dict() for name, plan in plans.items()}
        config.digest = None if stored is None else checkpoint_digest(stored, config.tables)
        config.shared_heads = heads_in_use(model)
        config.format_version, config.plugin_version = FORMAT_VERSION, __version__
        model.config.quantization_config = config

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[Any, dict[str, str]]:
        """Called by `save_pretrained` before it writes config.json: brings plans and digest up to date.

        Returns:
            The state dict to save, and no metadata. It holds what the latents round to, and the latents themselves only
            for a checkpoint of a training run.
        """
        state = dict(self.given_state_dict if self.given_state_dict is not None else model.state_dict())
        stored: dict[str, Tensor] = {}
        plans: dict[str, CodingPlan] = {}
        for name, owner in owners(model).items():
            tensors = stored_tensors(state, owner.plan, name)
            plans[name] = owner.plan_with(tensors["exact_rows"].dtype)
            tensors = {key: _whole(model, f"{name}.{key}", tensor) for key, tensor in tensors.items()}
            prefix = f"{name}.{LATENTS}."
            latents = {key: _whole(model, key, state[key]) for key in state if key.startswith(prefix)}
            if any(tensor.dtype != torch.float32 for tensor in latents.values()):  # cast: what is stored is exact
                state = {key: tensor for key, tensor in state.items() if key not in latents}
            elif owner.latents is not None and latents:  # of a sharded model they are newer than what is stored
                rounded = rounded_tensors(owner.latents.roundings, latents, tensors, prefix)
                state |= {f"{name}.{key}": tensor for key, tensor in rounded.items()}
                tensors |= rounded
            stored |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
            if not self.keeps_latents:
                state = {key: tensor for key, tensor in state.items() if key not in latents}
        for name, head in heads_of_absent_tables(model).items():
            state[f"{name}.{SENTINEL}"] = head.untied().weight.detach()
        self._record(model, plans, stored)
        return state, {}

    def dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """Gives back an ordinary dense model with the decoded tables.

        Args:
            model: changed in place.
            dtype: of the whole model; unchanged when None.
        """
        model = self._dequantize(model, dtype=dtype)
        self.remove_quantization_config(model)
        return model if dtype is None else model.to(dtype=dtype)  # pyright: ignore[reportCallIssue]

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        remove_methods(model)
        restore_dense(model, dtype)
        for part in model.modules():
            if isinstance(part, PreTrainedModel) and hasattr(part.config, "_is_quantized"):
                delattr(part.config, "_is_quantized")
        if hasattr(model, _DDP_IGNORED):
            delattr(model, _DDP_IGNORED)
        return model


_DDP_IGNORED = "_ddp_params_and_buffers_to_ignore"


def register() -> None:
    """Registers config and quantizer with transformers; a second call, as after a reload, replaces the first."""
    for mapping in (AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING):
        mapping.pop(QUANT_METHOD, None)
    register_quantization_config(QUANT_METHOD)(LightTokenConfig)
    register_quantizer(QUANT_METHOD)(LightTokenQuantizer)


def _plans_of(config: LightTokenConfig) -> dict[str, CodingPlan]:
    try:
        return config.plans()
    except ValueError as error:
        raise LightTokenCheckpointError(str(error)) from error


def _matched(sites: list[TableSite], plans: Mapping[str, CodingPlan]) -> list[tuple[TableSite, str]]:
    """Each site with the name of its plan; a site without one stays dense."""
    pairs = [(site, matching_name(site.owner, plans)) for site in sites]
    if len(sites) == len(plans) == 1:
        return [(sites[0], next(iter(plans)))]
    return [(site, name) for site, name in pairs if name is not None]


def _check_shape(model: PreTrainedModel, site: TableSite, name: str, plan: CodingPlan) -> None:
    shape = tuple(embedding_at(model, site.owner).weight.shape)
    if shape != (plan.num_embeddings, plan.embedding_dim):
        raise LightTokenCheckpointError(
            f"quantization_config describes the table {name!r} as {plan.num_embeddings} x {plan.embedding_dim}, but "
            f"the model's {site.owner!r} is {shape} (vocab_size, hidden size): config.json is damaged or edited."
        )


def _finish_loading(model: PreTrainedModel, name: str, owner: LightTokenEmbedding) -> None:
    tensors = {key: getattr(owner, key) for key in owner.plan.tensor_specs()}
    absent = [
        f"{name}.{key}"
        for key, tensor in tensors.items()
        if not tensor.is_meta and not getattr(tensor, "_is_hf_initialized", False)
    ]
    if absent:
        raise LightTokenCheckpointError(
            f"{type(model).__name__} needs the tensors {absent}, which the checkpoint lacks or holds in another shape. "
            "Where it has them under another prefix, say which: from_pretrained(..., key_mapping={'^model.': "
            "'transformer.'}) for Llama's question answering."
        )
    index = tensors.get("tier_index")
    offloaded = index is not None and index.is_meta
    owner.refresh_positions(load_offloaded_parameter(model, f"{name}.tier_index") if offloaded else None)
    owner.exact_rows.requires_grad_(owner.exact_rows.numel() > 0)
    owner.is_loading = False


def _whole(model: PreTrainedModel, name: str, tensor: Tensor) -> Tensor:
    """A tensor with its values: loaded if it is offloaded, gathered if it is sharded."""
    if tensor.is_meta:
        return load_offloaded_parameter(model, name)
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _prepare_for_use(model: PreTrainedModel) -> None:
    add_methods(model)
    # Codes never change in training, and NCCL has no int16: DistributedDataParallel is not to send them.
    names = [f"{name}.{buffer}" for name, owner in owners(model).items() for buffer, _ in owner.named_buffers()]
    setattr(model, _DDP_IGNORED, sorted({*getattr(model, _DDP_IGNORED, ()), *names}))
