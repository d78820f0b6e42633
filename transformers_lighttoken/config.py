"""LightTokenConfig: what a user asks for, and what a compressed checkpoint says of itself."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from transformers.utils.quantization_config import QuantizationConfigMixin

from .coding.plan import MAX_SEED, CodingPlan
from .modeling.errors import LightTokenCheckpointError
from .version import __version__

QUANT_METHOD = "lighttoken"
FORMAT_VERSION = 1

Solver = Literal["refined", "paper"]
TiePolicy = Literal["share", "dense", "error"]
TierPolicy = Literal["auto", "equal"]

_CHOICES = {
    "solver": ("refined", "paper"),
    "tie_policy": ("share", "dense", "error"),
    "tiers": ("auto", "equal"),
    "metric": ("auto", "plain"),
    "warm_start": ("closed_form", "autoencoder"),
    "decoder_dtype": (None, "int8", "float16"),
}

TRAINABLE_PARTS = ("decoder", "low_rank", "row_scales", "exact_rows")


class LightTokenConfig(QuantizationConfigMixin):
    """How to compress token-embedding tables; passed as `quantization_config=`.

    Plain JSON values only. Frequencies, tokenizers and text are arguments of the calls that compress.

    Args:
        compression_ratio: float32 bytes of the table over all bytes that replace it, at least this much (counted as in
            Wang et al. 2023). Ignored where `code_bits` is given.
        rank: rank of the low-rank part. None chooses it by predicted error, and is 0 where `code_bits` are given or the
            solver is "paper": most tables spend these bytes better on code bits.
        code_bits: bits per token of the base code; None fills the byte budget of `compression_ratio`.
        num_stages: stages of the code, all of about the same size. None makes stages of about 64 bits for "paper", and
            stages that each double the code for "refined", so that it can be cut smaller (see `coding.nested`).
        alpha: weight of the angle in the loss L_alpha, at least 1; 1 is the squared Euclidean distance.
        seed: of everything random; at most 2**63 - 1.
        solver: "refined" finishes with closed-form decoders and discrete code refinement (beyond the paper); "paper" is
            the residual binary autoencoder alone, after Wang et al. 2023.
        warm_start: what "refined" starts from: stages fitted in closed form, or the trained "autoencoder".
        tie_policy: for an output head that shares the table: "share" codes both once, "dense" leaves the head dense,
            "error" refuses.
        tiers: "auto" gives frequent tokens more bits (beyond the paper); "equal" gives each the same, as in the paper.
        metric: "auto" measures where the model is sensitive to errors of the table (beyond the paper); "plain" weighs
            all errors the same, as the paper does.
        decoder_dtype: "int8" or "float16"; None is int8 for "refined" and float16 for "paper".
        modules_to_not_convert: names of embedding modules to leave dense.
        trainable: what fine-tuning trains: any of "decoder", "low_rank", "row_scales" and "exact_rows". None is all of
            them; an empty list freezes the table, which then takes no memory for gradients. Codes never train.
        format_version: of the stored format; written by this package.
        plugin_version: of the package that wrote a checkpoint; written by this package.
        tables: coding plan of each compressed table by module name; written by this package.
        digest: of the stored bytes of the compressed tensors and of `tables`; written by this package.
        shared_heads: output heads that use a compressed table as theirs, by the table's name; written by this package.
        provenance: how the tables were made (metric, frequencies, report); written by this package.
        **kwargs: must be empty; a misspelt name is refused.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
        TypeError: for an unknown argument, with the nearest known name.
    """

    def __init__(
        self,
        compression_ratio: float = 25.0,
        rank: int | None = None,
        code_bits: int | None = None,
        num_stages: int | None = None,
        alpha: float = 2.0,
        seed: int = 0,
        solver: Solver = "refined",
        warm_start: Literal["closed_form", "autoencoder"] = "closed_form",
        tie_policy: TiePolicy = "share",
        tiers: TierPolicy = "auto",
        metric: Literal["auto", "plain"] = "auto",
        decoder_dtype: Literal["int8", "float16"] | None = None,
        modules_to_not_convert: list[str] | None = None,
        trainable: list[str] | None = None,
        format_version: int = FORMAT_VERSION,
        plugin_version: str = __version__,
        tables: dict[str, dict[str, Any]] | None = None,
        digest: str | None = None,
        provenance: dict[str, Any] | None = None,
        shared_heads: dict[str, list[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_newer_format(format_version, plugin_version)
        kwargs.pop("quant_method", None)
        _refuse_unknown(kwargs, type(self))
        self.quant_method = QUANT_METHOD  # pyright: ignore[reportAttributeAccessIssue]
        self.compression_ratio = compression_ratio
        self.rank = rank
        self.code_bits = code_bits
        self.num_stages = num_stages
        self.alpha = alpha
        self.seed = seed
        self.solver = solver
        self.warm_start = warm_start
        self.tie_policy: TiePolicy = tie_policy
        self.tiers = tiers
        self.metric = metric
        self.decoder_dtype: Literal["int8", "float16"] | None = decoder_dtype
        self.modules_to_not_convert = modules_to_not_convert
        self.trainable = trainable
        self.format_version = format_version
        self.plugin_version = plugin_version
        self.tables = tables
        self.digest = digest
        self.provenance = provenance
        self.shared_heads = shared_heads
        self.validate()

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """What fine-tuning trains."""
        return TRAINABLE_PARTS if self.trainable is None else tuple(self.trainable)

    @property
    def is_compressed(self) -> bool:
        """Whether this describes a compressed checkpoint rather than a wish to compress."""
        return bool(self.tables)

    def plans(self) -> dict[str, CodingPlan]:
        """The coding plan of each compressed table, by module name.

        Raises:
            ValueError: if a plan is damaged or absurd.
        """
        plans = {}
        for name, fields in (self.tables or {}).items():
            try:
                plans[name] = CodingPlan.from_dict(fields)
            except (ValueError, TypeError) as error:
                raise ValueError(f"quantization_config.tables[{name!r}] is damaged: {error}") from error
        return plans

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: naming the argument, its value and what is allowed.
        """
        _check_number("compression_ratio", self.compression_ratio, above=1.0)
        _check_number("alpha", self.alpha, least=1.0)
        for name, least in (("rank", 0), ("code_bits", 0), ("num_stages", 1)):
            value = getattr(self, name)
            if value is not None:
                _check_integer(name, value, least)
        _check_integer("seed", self.seed, 0, most=MAX_SEED)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {list(allowed)}, got {getattr(self, name)!r}.")
        names = self.modules_to_not_convert
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(f"modules_to_not_convert must be a list of module names, got {names!r}.")
        parts = self.trainable
        if parts is not None and not (isinstance(parts, list) and all(part in TRAINABLE_PARTS for part in parts)):
            raise ValueError(f"trainable must be a list of any of {list(TRAINABLE_PARTS)}, got {parts!r}.")
        if self.tables is not None and not (isinstance(self.tables, Mapping) and self.tables):
            raise ValueError(f"tables must map one or more module names to coding plans, got {self.tables!r}.")
        heads = self.shared_heads
        if heads is not None and not (isinstance(heads, dict) and all(isinstance(it, list) for it in heads.values())):
            raise ValueError(f"shared_heads must map names of tables to lists of module names, got {heads!r}.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Reads what `to_dict` wrote, as config.json has it.

        Raises:
            LightTokenCheckpointError: if it is of a compressed checkpoint and lacks what such a one always has.
        """
        if config_dict.get("tables") == {}:
            raise LightTokenCheckpointError(
                "the quantization_config of config.json names no tables: remove it if the checkpoint is dense, else "
                "download config.json again."
            )
        if config_dict.get("tables") is not None and config_dict.get("format_version") is None:
            raise LightTokenCheckpointError(
                "the quantization_config of config.json has `tables`, but no format_version to read them by: download "
                "config.json again."
            )
        return super().from_dict(config_dict, return_unused_kwargs, **kwargs)

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Sets known attributes and validates; returns the unknown ones, as transformers expects."""
        unused = super().update(**kwargs)
        self.validate()
        return unused

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; fields that only a compressed checkpoint has are left out where they are empty."""
        fields = super().to_dict()
        written = ("tables", "digest", "provenance", "shared_heads")
        optional = (*written, "modules_to_not_convert", "decoder_dtype", "trainable")
        return {name: value for name, value in fields.items() if value is not None or name not in optional}


def _refuse_newer_format(format_version: Any, plugin_version: Any) -> None:
    _check_integer("format_version", format_version, 1)
    if format_version > FORMAT_VERSION:
        raise ValueError(
            f"this checkpoint has LightToken format_version {format_version}; transformers-lighttoken {__version__} "
            f"reads up to {FORMAT_VERSION}. Install a newer one: "
            f'pip install -U "transformers-lighttoken>={plugin_version}".'
        )


def _refuse_unknown(kwargs: dict[str, Any], cls: type[LightTokenConfig]) -> None:
    if not kwargs:
        return
    known = [name for name in cls.__init__.__annotations__ if name not in ("kwargs", "return")]
    hints = {name: difflib.get_close_matches(name, known, n=1) for name in kwargs}
    described = ", ".join(
        f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else "") for name, near in hints.items()
    )
    raise TypeError(f"LightTokenConfig has no argument {described}. Known: {', '.join(known)}.")


def _check_number(name: str, value: Any, above: float | None = None, least: float | None = None) -> None:
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and abs(value) < 1e12
    if not real or (above is not None and value <= above) or (least is not None and value < least):
        wanted = f"greater than {above:g}" if above is not None else f"at least {least:g}"
        raise ValueError(f"{name} must be a finite number {wanted}, got {value!r}.")


def _check_integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        limit = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} must be an integer of at least {least}{limit}, got {value!r}.")
