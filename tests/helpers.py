"""Tables that need no fitting: random codes, decoders and exact rows of any plan."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from transformers_lighttoken.coding.packing import bits_of_bfloat16, pack_bits, pack_values
from transformers_lighttoken.coding.plan import EXACT_DTYPES, CodingPlan, Tier
from transformers_lighttoken.coding.quantize import quantize_rows, quantize_scales
from transformers_lighttoken.coding.table import CompressedTable
from transformers_lighttoken.coding.tier import reference_bits
from transformers_lighttoken.coding.tier_index import encode_depths
from transformers_lighttoken.config import LightTokenConfig, TiePolicy
from transformers_lighttoken.modeling.fitting import sites_to_compress
from transformers_lighttoken.modeling.quantizer import LightTokenQuantizer
from transformers_lighttoken.modeling.sites import embedding_at

TIERS = (Tier(40, "learnt", 5, 0), Tier(20, "trellis", 32, 4), Tier(7, "learnt", 3, 0))


def plan_of(rows: int, dim: int, *, rank: int = 2, exact: int = 5, tiers: int = 0, **fields: object) -> CodingPlan:
    """A small plan; `tiers` of three kinds, the second of which codes after a map of rank 3, relative to a center."""
    chosen = tuple(replace(tier, code_bits=dim if tier.kind == "trellis" else tier.code_bits) for tier in TIERS[:tiers])
    plan = CodingPlan(rows, dim, rank=rank, stage_bits=(6, 5), tiers=chosen, num_exact=exact, **fields)  # pyright: ignore[reportArgumentType]
    return with_index(
        replace(plan, whitening_rank=3 if tiers > 1 else 0, centered=tiers > 1 and plan.row_scale_bits > 0)
    )


def reference_tier(standing: int) -> Tier:
    """A tier of rows that the others lean on."""
    return Tier(standing, "reference", reference_bits(standing), 0)


def with_index(plan: CodingPlan) -> CodingPlan:
    """The plan with the bytes of the index that `random_table` gives it."""
    depths = depths_for(plan)
    plan = replace(plan, index_bytes=encode_depths(depths, plan.max_depth).numel() if plan.max_depth else 0)
    plan.validate()
    return plan


def depths_for(plan: CodingPlan, seed: int = 0) -> torch.Tensor:
    """Random depths with the plan's counts: exact rows first, tiers nested."""
    order = torch.randperm(plan.num_embeddings, generator=torch.Generator().manual_seed(seed))
    depths = torch.zeros(plan.num_embeddings, dtype=torch.int64)
    for depth, tier in enumerate(plan.tiers, start=1):
        depths[order[: plan.num_exact + tier.coverage]] = depth
    depths[order[: plan.num_exact]] = len(plan.tiers) + 1
    return depths


def random_table(plan: CodingPlan, seed: int = 0) -> CompressedTable:
    """A valid table of random content, values around 0.1."""
    noise = torch.Generator().manual_seed(seed)

    def decoder(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        return quantize_rows(torch.randn(rows, columns, generator=noise) * 0.1, plan.decoder_dtype)

    def codes(rows: int, bits: int) -> torch.Tensor:
        return pack_bits(torch.randint(0, 2, (rows, bits), generator=noise, dtype=torch.uint8))

    def scales(prefix: str, rows: int, bits: int) -> dict[str, torch.Tensor]:
        if not bits:
            return {}
        drawn = torch.rand(rows, generator=noise) + 0.5
        drawn[3::17] = 0
        values, limits = quantize_scales(drawn, bits)
        return {prefix + "row_scale": pack_values(values.unsqueeze(1), bits), prefix + "row_scale_range": limits}

    dim, coded = plan.embedding_dim, plan.num_coded
    exact = torch.randn(plan.num_exact, dim, generator=noise).to(EXACT_DTYPES[plan.exact_dtype])
    tensors = {"exact_rows": exact, **scales("", coded, plan.row_scale_bits)}
    if plan.max_depth:
        tensors["tier_index"] = encode_depths(depths_for(plan), plan.max_depth)
    if plan.rank:
        tensors["low_rank_left"], tensors["low_rank_left_scale"] = decoder(plan.rank, coded)
        tensors["low_rank_right"], tensors["low_rank_right_scale"] = decoder(plan.rank, dim)
    if plan.code_bits:
        tensors["codes"] = codes(coded, plan.code_bits)
        tensors["decoder"], tensors["decoder_scale"] = decoder(plan.code_bits, dim)
    if plan.centered:
        tensors["center"] = bits_of_bfloat16(torch.randn(dim, generator=noise))
    if plan.whitening_rank:
        tensors["whitening"], tensors["whitening_scale"] = quantize_rows(
            torch.randn(plan.whitening_rank, dim, generator=noise) * 0.1, "int8"
        )
    for number, tier in enumerate(plan.tiers, start=1):
        prefix = f"tier_{number}_"
        rows_with_codes = coded - tier.coverage if tier.kind == "reference" else tier.coverage
        tensors[prefix + "codes"] = codes(rows_with_codes, tier.code_bits)
        tensors |= scales(prefix, tier.coverage, tier.row_scale_bits)
        if tier.kind == "learnt":
            tensors[prefix + "decoder"], tensors[prefix + "decoder_scale"] = decoder(tier.code_bits, dim)
    return CompressedTable(plan, {name: tensors[name] for name in plan.tensor_specs()})


def compress_at_random(
    model: PreTrainedModel, *, tie_policy: TiePolicy = "share", exact: int = 5, tiers: int = 0, seed: int = 0
) -> dict[str, CompressedTable]:
    """Compresses a model's tables in place without fitting anything; returns the tables."""
    config = LightTokenConfig(tie_policy=tie_policy)
    sites = sites_to_compress(model, config)
    tables = {}
    for site in sites:
        weight = embedding_at(model, site.owner).weight
        dtype = str(weight.dtype).removeprefix("torch.")
        plan = plan_of(*weight.shape, exact=exact, tiers=tiers, exact_dtype=dtype)
        tables[site.owner] = random_table(plan, seed)
    LightTokenQuantizer(config, pre_quantized=False).adopt(model, sites, tables)
    return tables


def stored_tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors in the safetensors files of a folder."""
    return {key: tensor for file in sorted(folder.glob("*.safetensors")) for key, tensor in load_file(file).items()}
