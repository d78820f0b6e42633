"""Tier: further code bits for some rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .trellis import trellis_bits, trellis_error

TierKind = Literal["learnt", "rotated", "trellis", "reference"]
_TRELLIS_SCALE_BITS = 4
WEIGHT_BITS = 4
"""Bits of how much a row leans on another (see `references`)."""
_MOST_REFERENCE_BITS = 32 + WEIGHT_BITS


@dataclass(frozen=True)
class Tier:
    """Further code bits for the most frequent rows. Beyond the paper.

    Attributes:
        coverage: number of rows, exact rows not counted.
        kind: "learnt" has a decoder of its own; "rotated" and "trellis" decode by a fixed rotation that costs no bytes,
            from independent levels and from those of a trellis code. "reference" adds nothing to the rows that it
            covers: each of the others leans on one of them (see `references`).
        code_bits: bits per row. For "rotated", a multiple of embedding_dim: that many bits per dimension. For
            "trellis", one for each dimension or for each two: embedding_dim or half of it, rounded up. For "reference"
            those of each row that is not covered: which row it leans on, and how much.
        row_scale_bits: bits per row of the tier's own scale: 4 or 8, 0 for "learnt" and "reference". A "trellis" tier
            with 0 after another one takes what that one is expected to leave as its scale (see `scale_after`).
    """

    coverage: int
    kind: TierKind
    code_bits: int
    row_scale_bits: int

    def trellis_width(self, embedding_dim: int) -> int:
        """Values that share a bit of a trellis tier."""
        return 1 if self.code_bits == embedding_dim else 2

    def scale_after(self, embedding_dim: int) -> float:
        """Scale of what a trellis tier is expected to leave of a row, over its own. Part of the stored format."""
        return trellis_error(embedding_dim, self.trellis_width(embedding_dim)) ** 0.5


def trellis_tiers(coverage: int, widths: Sequence[int], embedding_dim: int) -> tuple[Tier, ...]:
    """Trellis tiers whose bits are shared by some numbers of values; the first one alone has scales of its own."""
    bits = [_TRELLIS_SCALE_BITS, *[0] * (len(widths) - 1)]
    return tuple(
        Tier(coverage, "trellis", trellis_bits(embedding_dim, width), scale_bits)
        for width, scale_bits in zip(widths, bits, strict=False)
    )


def reference_bits(coverage: int) -> int:
    """Bits of a row's reference among `coverage` rows, and of its weight."""
    return (coverage - 1).bit_length() + WEIGHT_BITS


def is_integer(value: Any) -> bool:
    """Whether a value is an int and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_tier(name: str, tier: Tier, most_rows: int, embedding_dim: int, after: Tier | None = None) -> None:
    """Checks a tier against the rows that it may cover and the one with codes before it.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    if tier.kind not in get_args(TierKind):
        raise ValueError(f"{name}.kind must be one of {list(get_args(TierKind))}, got {tier.kind!r}.")
    if not is_integer(tier.coverage) or not 0 < tier.coverage <= most_rows:
        raise ValueError(f"{name}.coverage must be in [1, {most_rows}], got {tier.coverage!r}: coverage falls.")
    if not is_integer(tier.code_bits) or tier.code_bits < 1:
        raise ValueError(f"{name}.code_bits must be a positive integer, got {tier.code_bits!r}.")
    allowed = [trellis_bits(embedding_dim, width) for width in (1, 2)]
    if tier.kind == "trellis" and tier.code_bits not in allowed:
        raise ValueError(
            f"{name}.code_bits, of a trellis tier, must be one of {allowed} for embedding_dim {embedding_dim}, got "
            f"{tier.code_bits}."
        )
    if tier.kind == "rotated" and tier.code_bits not in [bits * embedding_dim for bits in (1, 2, 3, 4)]:
        raise ValueError(
            f"{name}.code_bits, of a rotated tier, must be 1 to 4 times embedding_dim {embedding_dim}, got "
            f"{tier.code_bits}."
        )
    least = reference_bits(tier.coverage)
    if tier.kind == "reference" and not least <= tier.code_bits <= _MOST_REFERENCE_BITS:
        raise ValueError(
            f"{name}.code_bits, of a reference tier, must be in [{least}, {_MOST_REFERENCE_BITS}] for coverage "
            f"{tier.coverage}, got {tier.code_bits}."
        )
    scale_bits = (0,) if tier.kind in ("learnt", "reference") else (4, 8)
    where = f"where kind is {tier.kind!r}"
    if tier.kind == "trellis" and after is not None and after.kind == "trellis":
        scale_bits, where = (0, 4, 8), f"{where} after another such tier"
    if not is_integer(tier.row_scale_bits) or tier.row_scale_bits not in scale_bits:
        raise ValueError(f"{name}.row_scale_bits must be in {scale_bits} {where}, got {tier.row_scale_bits!r}.")
