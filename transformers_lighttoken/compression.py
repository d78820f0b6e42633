"""compress_table: a dense table and a LightTokenConfig become a CompressedTable. Knows no model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .coding.budget import plan_equal
from .coding.encode import EncodeOptions, Progress, check_weight, encode
from .coding.plan import CodingPlan, DecoderDtype
from .coding.reduction import Reduce, local_sum
from .coding.table import CompressedTable
from .coding.tier_index import encode_depths
from .config import LightTokenConfig

_EXACT_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_MAX_EXACT_SHARE = 0.05


def compress_table(
    weight: Tensor,
    config: LightTokenConfig,
    *,
    exact_ids: Sequence[int] = (),
    frequencies: Tensor | None = None,
    metric: Tensor | None = None,
    progress: Progress | None = None,
    reduce: Reduce = local_sum,
) -> CompressedTable:
    """Compresses any table of rows: a model's token embeddings, GloVe, or any matrix.

    Args:
        weight: (V, d) floating-point table, on the device to compute on.
        config: what to aim for.
        exact_ids: rows to store as they are, most important first; those that would take more than a twentieth of the
            byte budget are coded instead.
        frequencies: (V,) counts or probabilities of the rows, for tiers; None for equal coverage.
        metric: (d, d) positive semi-definite matrix M of the error (e - e')^T M (e - e'); None for the plain one.
        progress: told of each step: what, how many done, how many in all.
        reduce: sums a float64 tensor over processes.

    Returns:
        The compressed table, on the weight's device.

    Raises:
        TypeError: if the weight is not floating-point.
        ValueError: for an empty or non-finite table, or a request that no plan fits.
    """
    check_weight(weight)
    plan, depths = plan_table(weight, config, exact_ids, frequencies)
    options = EncodeOptions(
        solver=config.solver, warm_start=config.warm_start, alpha=config.alpha, seed=config.seed, reduce=reduce
    )
    return encode(weight.detach(), plan, depths, metric, options, progress)


def plan_table(
    weight: Tensor, config: LightTokenConfig, exact_ids: Sequence[int] = (), frequencies: Tensor | None = None
) -> tuple[CodingPlan, Tensor]:
    """What `compress_table` would store, its bytes exact before anything is trained.

    Returns:
        The plan and the depth of each row, (V,) int64 (see `coding.tier_index`).

    Raises:
        ValueError: for a request that no plan fits; names the nearest possible value.
    """
    rows, dim = weight.shape
    exact_dtype = _EXACT_DTYPES.get(weight.dtype, "float32")
    exact = _affordable_exact_ids(exact_ids, rows, dim, config, exact_dtype)
    depths = torch.zeros(rows, dtype=torch.long)
    depths[exact] = 1
    decoder_dtype: DecoderDtype = config.decoder_dtype or ("float16" if config.solver == "paper" else "int8")
    template = CodingPlan(
        num_embeddings=rows,
        embedding_dim=dim,
        rank=config.rank or 0,
        row_scale_bits=0 if config.solver == "paper" else 8,
        decoder_dtype=decoder_dtype,
        num_exact=len(exact),
        exact_dtype=exact_dtype,
        index_bytes=encode_depths(depths, 1).numel() if exact else 0,
        rotation_seed=config.seed,
    )
    if template.rank >= dim:
        raise ValueError(f"rank must be below the embedding_dim {dim}, got {template.rank}: ask for at most {dim - 1}.")
    return plan_equal(template, config.compression_ratio, config.code_bits, config.num_stages), depths


def _affordable_exact_ids(
    exact_ids: Sequence[int], rows: int, dim: int, config: LightTokenConfig, exact_dtype: str
) -> list[int]:
    unique = list(dict.fromkeys(int(row) for row in exact_ids))
    outside = [row for row in unique if not 0 <= row < rows]
    if outside:
        raise ValueError(f"exact_ids must be in [0, {rows - 1}], got {outside[:5]}.")
    row_bytes = dim * (4 if exact_dtype == "float32" else 2)
    most = int(4 * rows * dim / config.compression_ratio * _MAX_EXACT_SHARE / row_bytes)
    return unique[:most]
