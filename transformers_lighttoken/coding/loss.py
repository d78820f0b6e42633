"""The direction-aware compression loss, after Wang et al. 2023."""

from torch import Tensor


def direction_aware_loss(rows: Tensor, reconstructed: Tensor, alpha: float) -> Tensor:
    """L_alpha(x, y) = (|x| - |y|)^2 + 2 alpha |x| |y| (1 - cos(x, y)), row by row.

    alpha = 1 gives the squared Euclidean distance; any alpha > 1 is an upper bound of it that weighs the angle more. It
    is computed as |x - y|^2 + 2 (alpha - 1) max(0, |x| |y| - x.y), which never dips below the bound by rounding.

    Args:
        rows: (..., d) rows x.
        reconstructed: (..., d) rows y.
        alpha: weight of the angle, at least 1.

    Returns:
        (...) losses, not reduced.

    Raises:
        ValueError: if `alpha` is below 1.
    """
    if not alpha >= 1.0:
        raise ValueError(f"alpha must be at least 1, got {alpha}: below 1 the loss is no upper bound of the distance.")
    distance = (rows - reconstructed).square().sum(dim=-1)
    if alpha == 1.0:
        return distance
    norms = _safe_norm(rows) * _safe_norm(reconstructed)
    angular = (norms - (rows * reconstructed).sum(dim=-1)).clamp(min=0)
    return distance + 2.0 * (alpha - 1.0) * angular


def _safe_norm(rows: Tensor) -> Tensor:
    """Norms whose gradient at zero is zero, not NaN."""
    return rows.square().sum(dim=-1).clamp(min=1e-24).sqrt()
