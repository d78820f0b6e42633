"""How the cosines of a table's rows are distributed, recorded for the picture in the card."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_BINS = 30
_BLOCK_ROWS = 8192


def cosine_histogram(original: Tensor, decoded: Tensor) -> dict[str, Any]:
    """Counts rows by their cosine to the original row.

    Args:
        original: (V, d) floating-point.
        decoded: (V, d) floating-point, on the same device.

    Returns:
        Plain JSON values: `edges` of the bins, from a multiple of 0.1 below the least cosine to 1, and `counts`, which
        sum to V. The cosine of two zero rows is 1, that of a zero row and another is 0.
    """
    cosines = []
    for before, after in zip(original.split(_BLOCK_ROWS), decoded.split(_BLOCK_ROWS), strict=True):
        before, after = before.double(), after.double()  # (n, d)
        cosine = (functional.normalize(before, eps=1e-300) * functional.normalize(after, eps=1e-300)).sum(dim=1)
        both_zero = (before == 0).all(dim=1) & (after == 0).all(dim=1)
        cosines.append(torch.where(both_zero, 1.0, cosine).clamp(-1, 1).cpu())
    values = torch.cat(cosines).numpy()
    start = min(math.floor(values.min() * 10) / 10, 0.9)
    counts, edges = np.histogram(values, bins=_BINS, range=(start, 1.0))
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist()}
