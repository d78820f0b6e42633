"""How much the error of each row counts. Beyond the paper."""

from collections.abc import Sequence

import torch
from torch import Tensor


def checked_frequencies(frequencies: Tensor | Sequence[float] | None, rows: int) -> Tensor | None:
    """Frequencies as a vector with one value per row.

    Raises:
        ValueError: if there is another number of them.
    """
    if frequencies is None:
        return None
    values = torch.as_tensor(frequencies, dtype=torch.float64)
    if tuple(values.shape) != (rows,):
        raise ValueError(
            f"frequencies must have one value per row, ({rows},), got shape {tuple(values.shape)}: give every id up to "
            "the last row of the table its count, 0 for those that never occur."
        )
    return values


def frequency_weights(frequencies: Tensor, exact: Tensor | None = None, uniform_share: float = 0.15) -> Tensor:
    """Row weights of the predicted loss: the share of each coded row, blended with equal weights.

    Args:
        frequencies: (V,) counts or probabilities, not negative, not all zero.
        exact: ids of rows that are not coded, which weigh nothing.
        uniform_share: weight of the equal part.

    Returns:
        (V,) float64 with sum 1; equal for the coded rows where none of them ever occurs.

    Raises:
        ValueError: if a frequency is negative or not finite, or all are zero.
    """
    values = frequencies.double().cpu()
    if (
        values.dim() != 1
        or not bool(torch.isfinite(values).all())
        or bool((values < 0).any())
        or float(values.sum()) <= 0
    ):
        raise ValueError("frequencies must be a vector of finite values >= 0 with a positive sum.")
    coded = torch.ones_like(values)
    if exact is not None:
        coded[exact] = 0.0
    equal, met = coded / coded.sum().clamp(min=1), values * coded
    return uniform_share * equal + (1 - uniform_share) * (met / met.sum() if float(met.sum()) else equal)
