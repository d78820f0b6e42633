"""Product quantization (Jegou et al. 2011) by faiss: k-means in groups of columns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...coding.budget import largest_fitting
from ...coding.packing import packed_bytes
from ...optional import import_optional
from .baseline import Baseline, Size, store
from .gaussian_prediction import vector_quantizer_loss

MAX_CODE_BITS = 8


@dataclass(frozen=True)
class ProductQuantization(Baseline):
    """M groups of columns, each coded by one of 2**b centroids; groups differ by at most one column in width.

    Attributes:
        dtype: in which the codebooks are stored.
    """

    dtype: torch.dtype

    def stored_bytes(self, num_rows: int, dim: int, size: Size) -> int:
        """V M b bits of codes, packed over the whole table, and 2**b d numbers of codebooks."""
        codes = packed_bytes(num_rows, size["sub_quantizers"] * size["code_bits"])
        return codes + 2 ** size["code_bits"] * dim * self.dtype.itemsize

    def smallest(self, num_rows: int, dim: int) -> Size:
        """One group with two centroids."""
        return {"sub_quantizers": 1, "code_bits": 1}

    def largest(self, weight: Tensor, budget: int) -> Size:
        """For each code width the most groups that fit; among these the least error predicted for white columns."""
        num_rows, dim = weight.shape
        sizes = [self._most_groups(num_rows, dim, bits, budget) for bits in code_widths(num_rows)]
        return min((size for size in sizes if size), key=lambda size: _predicted_error(dim, size))

    def _most_groups(self, num_rows: int, dim: int, bits: int, budget: int) -> Size | None:
        def size(groups: int) -> Size:
            return {"sub_quantizers": groups, "code_bits": bits}

        groups = largest_fitting(1, dim, lambda groups: self.stored_bytes(num_rows, dim, size(groups)) <= budget)
        return size(groups) if groups else None

    def reconstruct(self, weight: Tensor, size: Size, seed: int) -> Tensor:
        """Trains the codebooks, rounds them to `dtype`, codes every row and decodes it."""
        rows = weight.cpu().numpy()
        groups = np.array_split(np.arange(rows.shape[1]), size["sub_quantizers"])
        width = len(groups[0])
        padded = np.zeros((len(rows), len(groups), width), np.float32)  # (V, M, w); no group is wider than the first
        for number, columns in enumerate(groups):
            padded[:, number, : len(columns)] = rows[:, columns]
        decoded = code_in_groups(padded, size["code_bits"], self.dtype, seed)  # (V, M, w)
        parts = [decoded[:, number, : len(columns)] for number, columns in enumerate(groups)]
        return torch.from_numpy(np.concatenate(parts, axis=1)).to(weight.device)


def code_widths(num_rows: int) -> range:
    """Widths in bits, widest first, of codes with no more centroids than rows."""
    return range(min(MAX_CODE_BITS, num_rows.bit_length() - 1), 0, -1)


def _predicted_error(dim: int, size: Size) -> float:
    """Relative error on independent Gaussian columns of one variance."""
    narrow, wider_groups = divmod(dim, size["sub_quantizers"])
    counts = {narrow: size["sub_quantizers"] - wider_groups, narrow + 1: wider_groups}
    return sum(
        count * width / dim * min(1.0, vector_quantizer_loss(width) * 4 ** (-size["code_bits"] / width))
        for width, count in counts.items()
    )


def code_in_groups(rows: np.ndarray, code_bits: int, dtype: torch.dtype, seed: int) -> np.ndarray:
    """Product quantization of columns that are grouped already.

    Args:
        rows: (V, M, w) float32.
        code_bits: b; each group has 2**b centroids.
        dtype: to which centroids are rounded before rows are coded.
        seed: of the k-means.

    Returns:
        (V, M, w) float32, decoded.

    Raises:
        ImportError: if faiss is not installed.
    """
    num_rows, groups, width = rows.shape
    flat = np.ascontiguousarray(rows.reshape(num_rows, -1))  # (V, M w)
    faiss = import_optional("faiss", "product quantization")
    quantizer = make_quantizer(groups, width, code_bits, seed)
    quantizer.train(flat)
    centroids = torch.from_numpy(faiss.vector_to_array(quantizer.centroids))
    faiss.copy_array_to_vector(store(centroids, dtype).numpy(), quantizer.centroids)
    return quantizer.decode(quantizer.compute_codes(flat)).reshape(rows.shape)


def make_quantizer(groups: int, width: int, code_bits: int, seed: int) -> Any:
    """An untrained, seeded `faiss.ProductQuantizer` that is content with as few rows as centroids."""
    faiss = import_optional("faiss", "product quantization")
    quantizer = faiss.ProductQuantizer(groups * width, groups, code_bits)
    quantizer.cp.seed = seed
    quantizer.cp.min_points_per_centroid = 1
    return quantizer
