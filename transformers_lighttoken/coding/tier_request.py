"""What tiers are planned for: the budget, the rows, and what may be chosen. Beyond the paper."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, product

from torch import Tensor

from .budget import StageSplit, byte_budget, even_stages
from .plan import CodingPlan
from .predicted_leaning import PredictedLeaning
from .recut import LargerCode
from .tier import Tier, trellis_tiers
from .trellis import FEWEST_CLOSED_BITS, trellis_bits, trellis_error

# Values that share a bit in each tier, the widest coverage first: a half bit a value, or whole ones, or both.
_PATTERNS = [
    (2,) * before + (1,) * whole + (2,) * after
    for before, whole, after in product(range(2), range(7), range(4))
    if before + whole + after
]
_SHARES_OF_BASE = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)


@dataclass(frozen=True)
class TierRequest:
    """What tiers are planned for.

    Attributes:
        template: shape, rank, whitening rank, scale bits, dtypes and exact rows; index bytes for the exact rows alone.
        ratio: least compression ratio.
        exact: (num_exact,) ids of the exact rows.
        eigenvalues: (d,) eigenvalues of the second moment of the rows to code, in the metric of the error.
        split: of the base code's bits over stages.
        lost_bits: bits a value that the first tier loses in the metric. What it leaves is white where it coded, so that
            the others lose none.
        nested_in: the larger code that this one is to be cut from; None if it is made anew.
        leaning: what it is expected to bring that rare rows lean on others, by rising numbers of these; none if they
            may not.
    """

    template: CodingPlan
    ratio: float
    exact: Tensor
    eigenvalues: Tensor
    split: StageSplit = even_stages
    lost_bits: float = 0.0
    nested_in: LargerCode | None = None
    leaning: Sequence[PredictedLeaning] = ()

    @property
    def budget(self) -> int:
        """Most bytes."""
        return byte_budget(self.template.num_embeddings, self.template.embedding_dim, self.ratio)

    def errors(self, tiers: Sequence[Tier]) -> list[float]:
        """Share of the error before it that each trellis tier leaves."""
        dim = self.template.embedding_dim
        losses = [4.0**self.lost_bits, *[1.0] * (len(tiers) - 1)]
        widths = [tier.trellis_width(dim) for tier in tiers]
        opened = list(accumulate((trellis_bits(dim, width) < FEWEST_CLOSED_BITS for width in widths), initial=0))
        return [
            min(1.0, loss * trellis_error(dim, width, before))
            for loss, width, before in zip(losses, widths, opened, strict=False)
        ]

    def patterns(self) -> list[tuple[tuple[Tier, ...], list[float]]]:
        """Tiers to try, each covering as many rows as it may, with their errors.

        A tier that a larger code does not have could code no more than that code's error.
        """
        rows, dim = self.template.num_coded, self.template.embedding_dim
        if self.nested_in is None:
            tried = [trellis_tiers(rows, widths, dim) for widths in _PATTERNS]
        else:
            tiers = tuple(replace(tier, coverage=min(tier.coverage, rows)) for tier in self.nested_in.trellis_tiers)
            tried = [tiers[:count] for count in range(1, len(tiers) + 1)]
        patterns = [(tiers, self.errors(tiers)) for tiers in tried]
        return [pattern for pattern in patterns if max(pattern[1]) < 1]

    def base_bits(self, most: int) -> list[int]:
        """Numbers of base bits to try, rising."""
        most = most if self.nested_in is None else min(most, self.nested_in.plan.code_bits)
        return sorted({max(1, int(share * most)) for share in _SHARES_OF_BASE})
