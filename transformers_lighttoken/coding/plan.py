"""CodingPlan: what is stored for a table, to the byte, known before anything is trained."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

import torch

from .packing import packed_bytes
from .tier import Tier, check_tier, is_integer
from .tier_index import max_encoded_bytes

DecoderDtype = Literal["int8", "float16"]
EXACT_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_SEED = 2**63 - 1
_STORED_DECODER = {"int8": torch.int8, "float16": torch.int16}
_ITEM_BYTES = {torch.uint8: 1, torch.int8: 1, torch.int16: 2, torch.int32: 4, torch.float16: 2, torch.bfloat16: 2}


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one stored tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * _ITEM_BYTES.get(self.dtype, 4)


@dataclass(frozen=True)
class CodingPlan:
    """What is stored for a table of num_embeddings x embedding_dim.

    Attributes:
        num_embeddings: rows V of the table.
        embedding_dim: columns d of the table.
        rank: rank k of the low-rank part; 0 for none.
        stage_bits: code bits of each stage of the base code, which covers every row that is not exact.
        row_scale_bits: bits per row of the row scale; 0 codes rows as they are.
        decoder_dtype: how decoders and low-rank factors are stored.
        tiers: further code bits for fewer rows, coverage falling.
        num_exact: rows stored as they are.
        exact_dtype: dtype of the exact rows.
        index_bytes: bytes of the stored tier index.
        rotation_seed: seed of the signs of the fixed rotation.
        whitening_rank: rank r of the map (see `whitening`) after which trellis tiers code; 0 for none.
        centered: whether rows are coded relative to a mean row (see `centering`); only with row scales.
    """

    num_embeddings: int
    embedding_dim: int
    rank: int = 0
    stage_bits: tuple[int, ...] = ()
    row_scale_bits: int = 8
    decoder_dtype: DecoderDtype = "int8"
    tiers: tuple[Tier, ...] = ()
    num_exact: int = 0
    exact_dtype: str = "float32"
    index_bytes: int = 0
    rotation_seed: int = 0
    whitening_rank: int = 0
    centered: bool = False

    @property
    def code_bits(self) -> int:
        """Bits per row of the base code, all stages together."""
        return sum(self.stage_bits)

    @property
    def bits_of_every_row(self) -> int:
        """Code bits that each coded row has, those of tiers that cover them all too."""
        return self.code_bits + sum(tier.code_bits for _, tier in self.code_tiers if tier.coverage == self.num_coded)

    @property
    def frequent_tiers(self) -> tuple[Tier, ...]:
        """The tiers that cover the most frequent rows alone."""
        return tuple(tier for _, tier in self.code_tiers if tier.coverage < self.num_coded)

    @property
    def code_tiers(self) -> tuple[tuple[int, Tier], ...]:
        """The tiers that add to the rows that they cover, each with its number from 1."""
        return tuple((number, tier) for number, tier in enumerate(self.tiers, start=1) if tier.kind != "reference")

    @property
    def reference_tier(self) -> tuple[int, Tier] | None:
        """The tier of the rows that others lean on, with its number; None if rows stand alone."""
        return next(
            ((number, tier) for number, tier in enumerate(self.tiers, start=1) if tier.kind == "reference"), None
        )

    @property
    def num_standing(self) -> int:
        """Coded rows that lean on no other, the first ones in storage order."""
        return self.num_coded if self.reference_tier is None else self.reference_tier[1].coverage

    @property
    def num_leaning(self) -> int:
        """Coded rows that lean on another."""
        return self.num_coded - self.num_standing

    @property
    def num_coded(self) -> int:
        """Rows that are coded, that is, not exact."""
        return self.num_embeddings - self.num_exact

    @property
    def max_depth(self) -> int:
        """Number of nested sets in the tier index: the tiers and the exact rows."""
        return len(self.tiers) + (1 if self.num_exact else 0)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense float32 table."""
        return 4 * self.num_embeddings * self.embedding_dim

    @property
    def stored_bytes(self) -> int:
        """Bytes of all stored tensors: nothing is left out."""
        return sum(spec.num_bytes for spec in self.tensor_specs().values())

    @property
    def ratio(self) -> float:
        """Compression ratio against float32, as Wang et al. 2023 count."""
        return self.dense_bytes / self.stored_bytes

    def tensor_specs(self) -> dict[str, TensorSpec]:
        """Name, dtype and shape of every stored tensor, in the order of the file."""
        d, rows, k, m = self.embedding_dim, self.num_coded, self.rank, self.code_bits
        decoder = _STORED_DECODER[self.decoder_dtype]
        specs = {"exact_rows": TensorSpec(EXACT_DTYPES[self.exact_dtype], (self.num_exact, d))}
        if self.index_bytes:
            specs["tier_index"] = TensorSpec(torch.uint8, (self.index_bytes,))
        if self.row_scale_bits:
            specs |= _scale_specs("", rows, self.row_scale_bits)
        if self.centered:
            specs["center"] = TensorSpec(torch.int16, (d,))
        if k:
            specs["low_rank_left"] = TensorSpec(decoder, (k, rows))
            specs["low_rank_left_scale"] = TensorSpec(torch.int16, (k,))
            specs["low_rank_right"] = TensorSpec(decoder, (k, d))
            specs["low_rank_right_scale"] = TensorSpec(torch.int16, (k,))
        if m:
            specs["codes"] = TensorSpec(torch.uint8, (packed_bytes(rows, m),))
            specs["decoder"] = TensorSpec(decoder, (m, d))
            specs["decoder_scale"] = TensorSpec(torch.int16, (m,))
        if self.whitening_rank:
            specs["whitening"] = TensorSpec(torch.int8, (self.whitening_rank, d))
            specs["whitening_scale"] = TensorSpec(torch.int16, (self.whitening_rank,))
        for number, tier in enumerate(self.tiers, start=1):
            prefix = f"tier_{number}_"
            rows_with_codes = self.num_leaning if tier.kind == "reference" else tier.coverage
            specs[prefix + "codes"] = TensorSpec(torch.uint8, (packed_bytes(rows_with_codes, tier.code_bits),))
            if tier.row_scale_bits:
                specs |= _scale_specs(prefix, tier.coverage, tier.row_scale_bits)
            if tier.kind == "learnt":
                specs[prefix + "decoder"] = TensorSpec(decoder, (tier.code_bits, d))
                specs[prefix + "decoder_scale"] = TensorSpec(torch.int16, (tier.code_bits,))
        return specs

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = asdict(self)
        fields["stage_bits"] = list(self.stage_bits)
        fields["tiers"] = [asdict(tier) for tier in self.tiers]
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "CodingPlan":
        """Reads what `to_dict` wrote and checks it.

        Raises:
            ValueError: if a field is missing, unknown, or out of range.
        """
        values = _exact_fields("a coding plan", _with_later_fields(fields), cls)
        for name in ("stage_bits", "tiers"):
            if not isinstance(values[name], (list, tuple)):
                raise ValueError(f"{name} must be a list, got {values[name]!r}.")
        values["stage_bits"] = tuple(values["stage_bits"])
        tiers = [_exact_fields(f"tiers[{number}]", tier, Tier) for number, tier in enumerate(values["tiers"])]
        values["tiers"] = tuple(Tier(**tier) for tier in tiers)
        plan = cls(**values)
        plan.validate()
        return plan

    def validate(self) -> None:
        """Checks the plan against itself, before any memory is taken.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        _check_integer_fields(self)
        d = self.embedding_dim
        if self.decoder_dtype not in list(_STORED_DECODER):
            raise ValueError(f"decoder_dtype must be one of {sorted(_STORED_DECODER)}, got {self.decoder_dtype!r}.")
        if self.exact_dtype not in list(EXACT_DTYPES):
            raise ValueError(f"exact_dtype must be one of {sorted(EXACT_DTYPES)}, got {self.exact_dtype!r}.")
        if not 0 <= self.rank < d:
            raise ValueError(f"rank must be in [0, {d - 1}] for embedding_dim {d}, got {self.rank}.")
        if not 0 <= self.num_exact <= self.num_embeddings:
            raise ValueError(f"num_exact must be in [0, {self.num_embeddings}], got {self.num_exact}.")
        if self.row_scale_bits not in (0, 4, 8):
            raise ValueError(f"row_scale_bits must be 0, 4 or 8, got {self.row_scale_bits}.")
        if not isinstance(self.centered, bool) or (self.centered and not self.row_scale_bits):
            raise ValueError(f"centered must be a bool, and False without row scales, got {self.centered!r}.")
        if not 0 <= self.whitening_rank < d:
            raise ValueError(
                f"whitening_rank must be in [0, {d - 1}] for embedding_dim {d}, got {self.whitening_rank}."
            )
        most_rows, after = self.num_coded, None
        for number, tier in enumerate(self.tiers):
            check_tier(f"tiers[{number}]", tier, most_rows, d, after)
            most_rows, after = tier.coverage, after if tier.kind == "reference" else tier
        if sum(tier.kind == "reference" for tier in self.tiers) > 1:
            raise ValueError("tiers must have at most one of kind 'reference': rows lean on rows that stand alone.")
        if self.reference_tier and (not self.row_scale_bits or any(tier.kind == "learnt" for tier in self.tiers)):
            raise ValueError("tiers of kind 'reference' need row scales, and no others of kind 'learnt' beside them.")
        most_bits = 32 * d
        for bits in (self.code_bits, *(tier.code_bits for tier in self.tiers)):
            if bits > most_bits:
                raise ValueError(f"code bits must be at most {most_bits}, those of a dense float32 row, got {bits}.")
        most_index = max_encoded_bytes(self.num_embeddings, self.max_depth)
        if self.index_bytes > most_index:
            raise ValueError(f"index_bytes must be at most {most_index} for these rows, got {self.index_bytes}.")


def _with_later_fields(fields: Any) -> Any:
    """Adds what the plans of early checkpoints lack."""
    return {"whitening_rank": 0, "centered": False, **fields} if isinstance(fields, Mapping) else fields


def _exact_fields(what: str, fields: Any, cls: Any) -> dict[str, Any]:
    known = set(cls.__dataclass_fields__)
    if not isinstance(fields, Mapping):
        raise ValueError(f"{what} must map the fields {sorted(known)} to their values, got {fields!r}.")
    if set(fields) != known:
        wrong = sorted(map(str, set(fields) ^ known))
        raise ValueError(f"{what} has exactly the fields {sorted(known)}; missing or unknown: {wrong}.")
    return dict(fields)


def _scale_specs(prefix: str, rows: int, bits: int) -> dict[str, TensorSpec]:
    return {
        prefix + "row_scale": TensorSpec(torch.uint8, (packed_bytes(rows, bits),)),
        prefix + "row_scale_range": TensorSpec(torch.int32, (2,)),
    }


def _check_integer_fields(plan: CodingPlan) -> None:
    numbers = {
        "num_embeddings": plan.num_embeddings,
        "embedding_dim": plan.embedding_dim,
        "rank": plan.rank,
        "num_exact": plan.num_exact,
        "index_bytes": plan.index_bytes,
        "row_scale_bits": plan.row_scale_bits,
        "rotation_seed": plan.rotation_seed,
        "whitening_rank": plan.whitening_rank,
        **{f"stage_bits[{i}]": bits for i, bits in enumerate(plan.stage_bits)},
    }
    for name, value in numbers.items():
        lowest = 1 if name in ("num_embeddings", "embedding_dim") or name.startswith("stage") else 0
        if not is_integer(value) or value < lowest:
            raise ValueError(f"{name} must be an integer of at least {lowest}, got {value!r}.")
    if plan.rotation_seed > MAX_SEED:
        raise ValueError(f"rotation_seed must be at most {MAX_SEED}, got {plan.rotation_seed}.")
