"""Writes the tables `v1_table_*.safetensors`, which every release must decode to the rows stored beside them.

    python -m tests.golden.make_tables

Once a version of the format is released its tables are never made again: a table that decodes otherwise is a defect.
Two trellis tiers of 40 columns have a code that bites its tail and one too short for it; both of 75 columns bite
theirs, and have unused bits in the last byte.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from transformers_lighttoken.coding.encode import EncodeOptions, encode
from transformers_lighttoken.coding.plan import CodingPlan
from transformers_lighttoken.coding.tier import Tier, reference_bits
from transformers_lighttoken.coding.tier_index import encode_depths

FOLDER = Path(__file__).parent
DIMS = (40, 75)
ROWS, STANDING, NUM_EXACT = 900, 450, 2


def table_path(dim: int) -> Path:
    """Where the table of so many columns lies."""
    return FOLDER / f"v1_table_{dim}.safetensors"


def tiers_of(dim: int) -> tuple[Tier, ...]:
    """A bit a value, rows that lean on others, a bit a value and a bit for two values."""
    return (
        Tier(700, "trellis", dim, 4),
        Tier(STANDING, "reference", reference_bits(STANDING), 0),
        Tier(240, "trellis", dim, 0),
        Tier(80, "trellis", -(-dim // 2), 0),
    )


def rows_and_metric(dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows off their center, the later half like rows of the first, and a metric of trace d."""
    root = torch.randn(dim, dim, generator=generator) * torch.linspace(2, 0.2, dim).unsqueeze(1)
    metric = root.t() @ root
    first = torch.randn(STANDING, dim, generator=generator)
    later = 0.8 * first + 0.4 * torch.randn(STANDING, dim, generator=generator)
    return torch.cat([first, later]) + 0.3, metric * (dim / metric.trace())


def make(dim: int) -> None:
    """Codes and saves a table, some of its rows and its plan."""
    generator = torch.Generator().manual_seed(0)
    weight, metric = rows_and_metric(dim, generator)
    order, tiers = torch.randperm(ROWS, generator=generator), tiers_of(dim)
    depths = torch.zeros(ROWS, dtype=torch.long)
    for tier in tiers:
        depths[order[: tier.coverage]] += 1
    depths[order[-NUM_EXACT:]] = len(tiers) + 1
    plan = CodingPlan(
        ROWS, dim, stage_bits=(9, 8), row_scale_bits=8, tiers=tiers, num_exact=NUM_EXACT,
        index_bytes=encode_depths(depths, len(tiers) + 1).numel(), rotation_seed=7, whitening_rank=4, centered=True,
    )  # fmt: skip
    table = encode(weight, plan, depths, metric, EncodeOptions(head_covariance=torch.eye(dim)))
    ids = torch.cat([torch.arange(0, ROWS, 20), order[-NUM_EXACT:]])
    stored = {**table.tensors, "expected_ids": ids, "expected_rows": table.decode(ids)}
    metadata = {"plan": json.dumps(table.plan.to_dict(), sort_keys=True)}
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, table_path(dim), metadata=metadata)


if __name__ == "__main__":
    for columns in DIMS:
        make(columns)
