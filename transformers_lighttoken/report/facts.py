"""CompressionReport: what a compressed model stores, to the byte, and how faithful it is where that was measured."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..coding.plan import CodingPlan


@dataclass(frozen=True)
class TableReport:
    """One compressed table.

    Attributes:
        name: of the module that owns it.
        plan: what is stored.
        source_dtype: of the dense table.
        parts: bytes of each stored tensor, by its name in the checkpoint.
        shared_heads: tied output heads that use the compressed table.
        dense_heads: tied output heads that were kept dense (tie_policy "dense").
        relative_error: |E - E'|^2 / |E|^2 over the table; None where it was not measured.
        cosine_mean: mean of the rows' cosines to the dense ones; None where it was not measured.
        cosine_p01: their 1st percentile; None where it was not measured.
        measured_on: what the metric of the error was measured on: "text", "samples" of the model, "text and samples",
            draws from token "frequencies"; "none" for the plain metric, "dropped" where the model could not be run for
            another; None where it was not recorded.
    """

    name: str
    plan: CodingPlan
    source_dtype: str
    parts: Mapping[str, int]
    shared_heads: tuple[str, ...] = ()
    dense_heads: tuple[str, ...] = ()
    relative_error: float | None = None
    cosine_mean: float | None = None
    cosine_p01: float | None = None
    measured_on: str | None = None

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors that stand for the table."""
        return sum(self.parts.values())

    @property
    def dense_bytes_float32(self) -> int:
        """Bytes of the dense table in float32, as Wang et al. 2023 count."""
        return self.plan.dense_bytes

    @property
    def dense_bytes_source_dtype(self) -> int:
        """Bytes of the dense table as the source stores it."""
        return self.plan.dense_bytes // 4 * _ITEM_BYTES[self.source_dtype]

    @property
    def dense_head_bytes(self) -> int:
        """What the heads cost that are no longer tied to the table."""
        return len(self.dense_heads) * self.dense_bytes_source_dtype

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plan = self.plan
        return {
            "name": self.name,
            "num_embeddings": plan.num_embeddings,
            "embedding_dim": plan.embedding_dim,
            "source_dtype": self.source_dtype,
            "stored_bytes": self.stored_bytes,
            "dense_bytes_float32": self.dense_bytes_float32,
            "dense_bytes_source_dtype": self.dense_bytes_source_dtype,
            "ratio_float32": self.dense_bytes_float32 / self.stored_bytes,
            "ratio_source_dtype": self.dense_bytes_source_dtype / self.stored_bytes,
            "relative_error": self.relative_error,
            "cosine_mean": self.cosine_mean,
            "cosine_p01": self.cosine_p01,
            "measured_on": self.measured_on,
            "rank": plan.rank,
            "code_bits": plan.code_bits,
            "stage_bits": list(plan.stage_bits),
            "tiers": [asdict(tier) for tier in plan.tiers],
            "num_exact": plan.num_exact,
            "decoder_dtype": plan.decoder_dtype,
            "shared_heads": list(self.shared_heads),
            "dense_heads": list(self.dense_heads),
            "dense_head_bytes": self.dense_head_bytes,
            "parts": dict(self.parts),
        }


_ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class CompressionReport:
    """All compressed tables of a model. `print(report)` is for people, `to_dict()` for programs.

    Attributes:
        tables: one entry per table.
        model_bytes: of all tensors of the compressed model.
        digest: of the stored bytes of the compressed tables; None for a model in memory that was not saved yet.
        seed: of everything random.
        solver: that made the tables.
        tie_policy: what was asked for tied output heads.
        format_version: of the stored format.
        plugin_version: of the package that wrote it.
        versions: of the libraries it was made with, where they were recorded.
        source: repository that was compressed, where it was recorded.
        revision: its commit, where it was recorded.
    """

    tables: tuple[TableReport, ...]
    model_bytes: int
    digest: str | None
    seed: int
    solver: str
    tie_policy: str
    format_version: int
    plugin_version: str
    versions: Mapping[str, str]
    source: str | None = None
    revision: str | None = None

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors that stand for tables in the checkpoint."""
        return sum(table.stored_bytes for table in self.tables)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each stored tensor of all tables, by its name in the checkpoint."""
        return {name: size for table in self.tables for name, size in table.parts.items()}

    @property
    def model_bytes_dense(self) -> int:
        """Bytes of the dense model saved the same way, a tied table stored once."""
        replaced = sum(table.stored_bytes + table.dense_head_bytes for table in self.tables)
        return self.model_bytes - replaced + sum(table.dense_bytes_source_dtype for table in self.tables)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        Of several tables, byte counts are sums, and figures that are not the same for all are None; `tables` has each.
        """
        tables = [table.to_dict() for table in self.tables]
        summed = ("stored_bytes", "dense_bytes_float32", "dense_bytes_source_dtype", "dense_head_bytes")
        totals = {key: sum(table[key] for table in tables) for key in summed}
        return {
            **{key: _common(tables, key) for key in tables[0] if key not in ("name", "parts", *summed)},
            **totals,
            "ratio_float32": totals["dense_bytes_float32"] / totals["stored_bytes"],
            "ratio_source_dtype": totals["dense_bytes_source_dtype"] / totals["stored_bytes"],
            "model_bytes": self.model_bytes,
            "model_bytes_dense": self.model_bytes_dense,
            "model_ratio": self.model_bytes_dense / self.model_bytes,
            "parts": self.parts,
            "tables": tables,
            "digest": self.digest,
            "seed": self.seed,
            "solver": self.solver,
            "tie_policy": self.tie_policy,
            "format_version": self.format_version,
            "plugin_version": self.plugin_version,
            "versions": dict(self.versions),
            "source": self.source,
            "revision": self.revision,
        }

    def __str__(self) -> str:
        model = f"{format_bytes(self.model_bytes_dense)} -> {format_bytes(self.model_bytes)}"
        lines = [line for table in self.tables for line in _describe(table)]
        lines.append(f"model: {model} ({self.model_bytes_dense / self.model_bytes:.2f} times smaller)")
        return "\n".join(lines)


def format_bytes(count: int) -> str:
    """For people: "1.9 MB"; decimal units, as the Hub shows."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def _common(tables: list[dict[str, Any]], key: str) -> Any:
    values = [table[key] for table in tables]
    return values[0] if all(value == values[0] for value in values) else None


def _describe(table: TableReport) -> list[str]:
    plan, frequent = table.plan, table.plan.frequent_tiers
    lines = [
        f"{table.name}: {plan.num_embeddings} x {plan.embedding_dim} {table.source_dtype}",
        f"  stored    {format_bytes(table.stored_bytes)} ({table.stored_bytes} bytes), "
        f"{table.dense_bytes_float32 / table.stored_bytes:.2f} times smaller than float32"
        + (
            f", {table.dense_bytes_source_dtype / table.stored_bytes:.2f} times smaller than {table.source_dtype}"
            if table.source_dtype != "float32"
            else ""
        ),
        f"  code      {plan.bits_of_every_row} bits a token, rank {plan.rank}, {plan.num_exact} exact rows, "
        + (f"tiers of {[tier.coverage for tier in frequent]} rows" if frequent else "equal coverage")
        + (f", {plan.num_leaning} rows lean on {plan.num_standing} others" if plan.num_leaning else ""),
    ]
    if table.relative_error is not None:
        lines.append(
            f"  fidelity  relative error {table.relative_error:.4f}, cosine {table.cosine_mean:.4f} "
            f"(1st percentile {table.cosine_p01:.4f})"
        )
    if table.measured_on == "dropped":
        lines.append("  metric    plain: the model does not run on token ids alone, so none could be measured")
    if table.shared_heads:
        lines.append(f"  tied      {', '.join(table.shared_heads)} uses the same codes")
    if table.dense_heads:
        lines.append(
            f"  tied      {', '.join(table.dense_heads)} kept dense, which costs {format_bytes(table.dense_head_bytes)}"
        )
    return lines
