"""Rate and distortion of Gaussian sources, by reverse water-filling (Cover and Thomas, 10.3.3)."""

import torch
from torch import Tensor


def component_rates(eigenvalues: Tensor, bits: float) -> Tensor:
    """Bits that each component of a Gaussian source takes at the least mean squared error.

    R_i = max(0, 1/2 log2(lambda_i / theta)), theta such that their sum is `bits`.

    Args:
        eigenvalues: (d,) variances of the source's components, not negative.
        bits: rate per row.

    Returns:
        (d,) float64, in the order of falling variances.
    """
    variances = eigenvalues.double().clamp(min=0).sort(descending=True).values
    logs = variances.log2()
    present = int((variances > 0).sum())
    rates = torch.zeros_like(logs)
    if not present or bits <= 0:
        return rates
    counts = torch.arange(1, present + 1, dtype=torch.float64, device=logs.device)
    levels = (logs[:present].cumsum(0) - 2 * bits) / counts  # log2 of theta if just the first n are active
    active = max(int((logs[:present] > levels).sum()), 1)
    rates[:active] = (logs[:active] - levels[active - 1]) / 2
    return rates


def gaussian_distortion(eigenvalues: Tensor, bits: float) -> float:
    """Least mean squared error of a Gaussian source at a rate.

    D = sum lambda_i 2**(-2 R_i), with the rates of `component_rates`.

    Args:
        eigenvalues: (d,) variances of the source's components, not negative.
        bits: rate per row.

    Returns:
        The error as a share of the source's total variance; 1 for a source without any.
    """
    variances = eigenvalues.double().clamp(min=0).sort(descending=True).values
    total = float(variances.sum())
    return float((variances * 4 ** -component_rates(eigenvalues, bits)).sum()) / total if total else 1.0
