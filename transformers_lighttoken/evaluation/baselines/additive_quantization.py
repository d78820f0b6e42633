"""Additive quantization by faiss: a row is a sum of one entry of each of several codebooks.

Rows are cut into groups of columns, each coded in stages, because a codebook over all columns is too dear for a table.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...coding.budget import largest_fitting
from ...coding.packing import packed_bytes
from ...optional import import_optional
from .baseline import Baseline, Size, store

_CODE_BITS = 4
_FEWEST_STAGES, _MOST_STAGES = 4, 8
_LEAST_COLUMNS = 4
_BEAM = 4
_TRAINING_ROUNDS = 5
_TRAINING_SEARCHES = 4


@dataclass(frozen=True)
class AdditiveQuantization(Baseline):
    """g groups of columns, each a sum of s entries from codebooks of 2**b.

    Attributes:
        dtype: in which the codebooks are stored.
    """

    dtype: torch.dtype

    @abstractmethod
    def make_quantizer(self, num_rows: int, columns: int, size: Size, seed: int) -> Any:
        """An untrained faiss quantizer of one group of columns."""

    def stored_bytes(self, num_rows: int, dim: int, size: Size) -> int:
        """V g s b bits of codes, packed over the whole table, and s 2**b d numbers of codebooks."""
        codes = packed_bytes(num_rows, size["groups"] * size["stages"] * size["code_bits"])
        return codes + size["stages"] * 2 ** size["code_bits"] * dim * self.dtype.itemsize

    def smallest(self, num_rows: int, dim: int) -> Size:
        """One stage of one group with two entries."""
        return {"groups": 1, "stages": 1, "code_bits": 1}

    def largest(self, weight: Tensor, budget: int) -> Size:
        """The most code bits per row that fit, with at least four stages where possible; then the most stages."""
        num_rows, dim = weight.shape
        bits = max(1, min(_CODE_BITS, num_rows.bit_length() - 1))
        sizes = [self._most_groups(num_rows, dim, stages, bits, budget) for stages in range(1, _MOST_STAGES + 1)]
        fitting = [size for size in sizes if size]
        deep = [size for size in fitting if size["stages"] >= _FEWEST_STAGES]
        if deep:
            return max(deep, key=lambda size: (size["groups"] * size["stages"], size["stages"]))
        return max(fitting, key=lambda size: size["stages"], default=self.smallest(num_rows, dim))

    def _most_groups(self, num_rows: int, dim: int, stages: int, bits: int, budget: int) -> Size | None:
        def fits(groups: int) -> bool:
            size = {"groups": groups, "stages": stages, "code_bits": bits}
            return self.stored_bytes(num_rows, dim, size) <= budget

        groups = largest_fitting(1, max(1, dim // _LEAST_COLUMNS), fits)
        return {"groups": groups, "stages": stages, "code_bits": bits} if groups else None

    def reconstruct(self, weight: Tensor, size: Size, seed: int) -> Tensor:
        """Trains each group's codebooks, rounds them to `dtype`, codes every row and decodes it."""
        rows = weight.cpu().numpy()
        decoded = np.empty_like(rows)
        for columns in np.array_split(np.arange(rows.shape[1]), size["groups"]):
            part = np.ascontiguousarray(rows[:, columns])
            decoded[:, columns] = _code(self.make_quantizer(len(part), len(columns), size, seed), part, self.dtype)
        return torch.from_numpy(decoded).to(weight.device)


@dataclass(frozen=True)
class ResidualQuantization(AdditiveQuantization):
    """Stage by stage on what is left over, with beam search (Chen et al. 2010; Liu et al. 2015)."""

    def make_quantizer(self, num_rows: int, columns: int, size: Size, seed: int) -> Any:
        """`faiss.ResidualQuantizer`, with progressive-dimension k-means where there are rows enough for it."""
        faiss = import_optional("faiss", "residual quantization")
        quantizer = faiss.ResidualQuantizer(columns, size["stages"], size["code_bits"])
        progressive, plain = faiss.ResidualQuantizer.Train_progressive_dim, faiss.ResidualQuantizer.Train_default
        quantizer.train_type = progressive if num_rows >= columns else plain
        quantizer.max_beam_size = _BEAM
        quantizer.cp.seed = seed
        quantizer.cp.min_points_per_centroid = 1
        return quantizer


@dataclass(frozen=True)
class LocalSearchQuantization(AdditiveQuantization):
    """All stages jointly, codes by iterated local search (Martinez et al. 2016, 2018: LSQ, LSQ++)."""

    def make_quantizer(self, num_rows: int, columns: int, size: Size, seed: int) -> Any:
        """`faiss.LocalSearchQuantizer`, trained for fewer rounds than its default, which would take hours."""
        faiss = import_optional("faiss", "local-search quantization")
        quantizer = faiss.LocalSearchQuantizer(columns, size["stages"], size["code_bits"])
        quantizer.train_iters = _TRAINING_ROUNDS
        quantizer.train_ils_iters = _TRAINING_SEARCHES
        quantizer.random_seed = seed
        return quantizer


def _code(quantizer: Any, rows: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    faiss = import_optional("faiss", "additive quantization")
    quantizer.train(rows)
    codebooks = torch.from_numpy(faiss.vector_to_array(quantizer.codebooks))
    faiss.copy_array_to_vector(store(codebooks, dtype).numpy(), quantizer.codebooks)
    return quantizer.decode(quantizer.compute_codes(rows))
