"""How the cosines of a table's rows are distributed, recorded for the picture in the card."""

import math
from typing import Any

import numpy as np
from torch import Tensor

_BINS = 30


def cosine_histogram(cosines: Tensor) -> dict[str, Any]:
    """Counts rows by their cosine to the original row.

    Args:
        cosines: (V,) of the rows.

    Returns:
        Plain JSON values: `edges` of the bins, from a multiple of 0.1 below the least cosine to 1, and `counts`, which
        sum to V.
    """
    values = cosines.double().clamp(-1, 1).cpu().numpy()
    start = min(math.floor(values.min() * 10) / 10, 0.9)
    counts, edges = np.histogram(values, bins=_BINS, range=(start, 1.0))
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist()}
