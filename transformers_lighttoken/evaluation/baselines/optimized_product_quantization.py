"""Optimized product quantization (Ge et al. 2013) by faiss: a rotation before the product quantizer."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...coding.budget import largest_fitting
from ...coding.packing import packed_bytes
from ...coding.water_filling import gaussian_distortion
from ...optional import import_optional
from .baseline import Baseline, Size, store
from .gaussian_prediction import vector_quantizer_loss
from .product_quantization import code_in_groups, code_widths, make_quantizer

_ITERATIONS = 5
_FIRST_KMEANS_ITERATIONS = 10


@dataclass(frozen=True)
class OptimizedProductQuantization(Baseline):
    """Centred rows, rotated to d' <= d dimensions and product-quantized in M groups of d' / M.

    The rotation starts from the parametric solution of Ge et al. (principal axes, spread over the groups so that their
    variances have equal products), and is refined by faiss's alternating solution. That start is far better than the
    random one that faiss makes by itself.

    Attributes:
        dtype: in which rotation, codebooks and mean are stored.
    """

    dtype: torch.dtype

    def stored_bytes(self, num_rows: int, dim: int, size: Size) -> int:
        """V M b bits of codes; 2**b d' numbers of codebooks, d' d of the rotation and d of the mean."""
        codes = packed_bytes(num_rows, size["sub_quantizers"] * size["code_bits"])
        rotated = size["rotated_dim"]
        return codes + (2 ** size["code_bits"] * rotated + rotated * dim + dim) * self.dtype.itemsize

    def smallest(self, num_rows: int, dim: int) -> Size:
        """One dimension with two centroids."""
        return {"sub_quantizers": 1, "code_bits": 1, "rotated_dim": 1}

    def largest(self, weight: Tensor, budget: int) -> Size:
        """For each code and group width the most groups that fit; among these the least predicted error."""
        num_rows, dim = weight.shape
        variances = principal_axes(weight)[0].cpu()  # (d,)
        sizes = (
            self._most_groups(num_rows, dim, width, bits, budget)
            for bits in code_widths(num_rows)
            for width in range(1, dim + 1)
        )
        return min((size for size in sizes if size), key=lambda size: _predicted_error(variances, size))

    def _most_groups(self, num_rows: int, dim: int, width: int, bits: int, budget: int) -> Size | None:
        def size(groups: int) -> Size:
            return {"sub_quantizers": groups, "code_bits": bits, "rotated_dim": groups * width}

        groups = largest_fitting(
            1, dim // width, lambda groups: self.stored_bytes(num_rows, dim, size(groups)) <= budget
        )
        return size(groups) if groups else None

    def reconstruct(self, weight: Tensor, size: Size, seed: int) -> Tensor:
        """Trains rotation and codebooks, codes every row with the rounded ones and decodes it."""
        mean = store(weight.double().mean(dim=0), self.dtype)  # (d,)
        centred = weight - mean  # (V, d)
        groups = size["sub_quantizers"]
        rotation = store(_train_rotation(centred, size, seed), self.dtype)  # (d', d)
        rotated = (centred @ rotation.t()).cpu().numpy().reshape(len(centred), groups, -1)  # (V, M, d' / M)
        decoded = code_in_groups(rotated, size["code_bits"], self.dtype, seed)
        return torch.from_numpy(decoded).flatten(1).to(weight.device) @ rotation + mean


def _predicted_error(variances: Tensor, size: Size) -> float:
    """Error on a Gaussian of these variances (d,): what is rotated away, and the limit times the quantizers' loss."""
    rotated = size["rotated_dim"]
    kept = float(variances[:rotated].sum())
    limit = gaussian_distortion(variances[:rotated], size["sub_quantizers"] * size["code_bits"])
    loss = vector_quantizer_loss(rotated // size["sub_quantizers"])
    return float(variances[rotated:].sum()) + kept * min(1.0, limit * loss)


def principal_axes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (d,) along the principal axes, falling, and the axes (d, d) as rows; float64, of the centred rows."""
    mean = weight.double().mean(dim=0)  # (d,)
    covariance = sum(block.double().t() @ block.double() for block in weight.split(8192)) / len(weight)  # (d, d)
    variances, axes = torch.linalg.eigh(covariance - torch.outer(mean, mean))
    return variances.flip(0).clamp(min=0), axes.t().flip(0)


def spread_evenly(variances: np.ndarray, groups: int) -> list[list[int]]:
    """Eigenvalue allocation of Ge et al. 2013: each axis goes to the group of the smallest product that has room.

    Args:
        variances: (d',) falling.
        groups: M, a divisor of d'.

    Returns:
        M lists of d' / M axis numbers.
    """
    room = len(variances) // groups
    logs = np.log(np.maximum(variances / max(variances[0], 1e-300), 1e-12)) - np.log(1e-13)  # positive
    members: list[list[int]] = [[] for _ in range(groups)]
    products = np.zeros(groups)
    for axis, log in enumerate(logs):
        group = int(np.argmin(products))
        members[group].append(axis)
        products[group] = products[group] + log if len(members[group]) < room else np.inf
    return members


def _train_rotation(centred: Tensor, size: Size, seed: int) -> Tensor:
    """Rotation (d', d) float32 with orthonormal rows, those of a group side by side."""
    faiss = import_optional("faiss", "optimized product quantization")
    groups, rotated = size["sub_quantizers"], size["rotated_dim"]
    variances, axes = principal_axes(centred)
    order = [axis for group in spread_evenly(variances[:rotated].cpu().numpy(), groups) for axis in group]
    transform = faiss.OPQMatrix(centred.shape[1], groups, rotated)
    transform.niter, transform.niter_pq_0 = _ITERATIONS, _FIRST_KMEANS_ITERATIONS
    quantizer = make_quantizer(groups, rotated // groups, size["code_bits"], seed)
    transform.pq = quantizer
    faiss.copy_array_to_vector(axes[order].float().cpu().contiguous().numpy().ravel(), transform.A)
    transform.train(centred.cpu().numpy())
    return torch.from_numpy(faiss.vector_to_array(transform.A).reshape(rotated, -1)).to(centred.device)
