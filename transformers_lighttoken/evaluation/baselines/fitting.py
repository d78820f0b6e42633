"""One call for every baseline: the largest size within the bytes of a ratio, fitted and decoded."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...coding.budget import byte_budget
from ...coding.encode import check_weight
from .additive_quantization import LocalSearchQuantization, ResidualQuantization
from .baseline import Baseline, BaselineResult
from .direction_autoencoder import DirectionAutoencoder
from .optimized_product_quantization import OptimizedProductQuantization
from .product_quantization import ProductQuantization
from .row_quantization import RowQuantization
from .svd import TruncatedSvd

_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
_METHODS: dict[str, Callable[[torch.dtype], Baseline]] = {
    "svd": TruncatedSvd,
    "direction_autoencoder": DirectionAutoencoder,
    "pq": ProductQuantization,
    "opq": OptimizedProductQuantization,
    "residual_quantization": ResidualQuantization,
    "local_search_quantization": LocalSearchQuantization,
}
_BASELINES: dict[str, Baseline] = {
    "int8": RowQuantization(8),
    "int4": RowQuantization(4),
    **{f"{method}_{name}": make(dtype) for method, make in _METHODS.items() for name, dtype in _PRECISIONS.items()},
}
BASELINE_NAMES = tuple(_BASELINES)
"""Every baseline. A suffix fp32 or fp16 tells how factors, codebooks and rotations are stored; integers have none."""


def fit_baseline(name: str, weight: Tensor, ratio: float, seed: int = 0) -> BaselineResult:
    """Fits a baseline at the largest size that takes at most 4 V d / ratio bytes.

    Args:
        name: one of `BASELINE_NAMES`.
        weight: (V, d) floating-point table; work is done in float32.
        ratio: least compression ratio, counted against float32.
        seed: of all random choices.

    Returns:
        The decoded table and the bytes that it was decoded from.

    Raises:
        TypeError: if `weight` is not floating-point.
        ValueError: if `name` is unknown, `weight` is no finite matrix of at least 2 x 2, or `ratio` cannot be met;
            names the nearest possible ratio.
        ImportError: if the method needs faiss and it is not installed.
    """
    if name not in _BASELINES:
        raise ValueError(f"name must be one of {', '.join(BASELINE_NAMES)}, got {name!r}.")
    check_weight(weight)
    if min(weight.shape) < 2:
        raise ValueError(f"weight must have at least 2 rows and 2 columns, got shape {tuple(weight.shape)}.")
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"ratio must be a positive number, got {ratio}.")
    baseline = _BASELINES[name]
    table = weight.detach().float().contiguous()
    num_rows, dim = table.shape
    budget = byte_budget(num_rows, dim, ratio)
    least = baseline.stored_bytes(num_rows, dim, baseline.smallest(num_rows, dim))
    if least > budget:
        nearest = math.floor(400 * num_rows * dim / least) / 100
        raise ValueError(
            f"ratio {ratio:g} leaves {budget} bytes, but {name} needs at least {least} for this table of "
            f"{num_rows} x {dim}: ask for at most {nearest:g}."
        )
    size = baseline.largest(table, budget)
    decoded = baseline.reconstruct(table, size, seed)
    return BaselineResult(name, decoded, baseline.stored_bytes(num_rows, dim, size), size)
