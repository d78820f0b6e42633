"""What is compared: the dense model, LightToken, and baselines at the same bytes, each as a checkpoint on disk."""

import os
from dataclasses import dataclass
from pathlib import Path

from ...checkpoint.compress import compress_checkpoint
from ...checkpoint.origin import same_source, source_facts
from ...config import LightTokenConfig
from ...report import compression_report
from ..baselines import BASELINE_NAMES
from ..baselines.checkpoint import baseline_checkpoint, read_baseline_facts
from ..fine_tuning.settings import TableMode
from ..subject import Subject, open_subject

DENSE, LIGHTTOKEN = "dense", "lighttoken"


@dataclass(frozen=True)
class Method:
    """A way to have the model's table.

    Attributes:
        kind: "dense", "lighttoken", or one of `BASELINE_NAMES`.
        ratio: compression ratio of the table; None for "dense".
        table: whether it trains. A baseline's is frozen always: trained as a dense table it would no longer be what
            its bytes can store.
    """

    kind: str
    ratio: float | None = None
    table: TableMode = "trained"

    @classmethod
    def parse(cls, text: str) -> "Method":
        """Reads `dense`, `lighttoken@25`, `opq_fp16@25`, each with or without `:frozen`.

        Raises:
            ValueError: if it is none of them.
        """
        body, _, table = text.partition(":")
        kind, _, ratio = body.partition("@")
        known = (DENSE, LIGHTTOKEN, *BASELINE_NAMES)
        if kind not in known or table not in ("", "trained", "frozen") or (kind == DENSE) != (not ratio):
            raise ValueError(
                f"method must be dense, lighttoken@RATIO or BASELINE@RATIO, with or without :frozen, got {text!r}; "
                f"baselines are {', '.join(BASELINE_NAMES)}."
            )
        if kind in BASELINE_NAMES and table == "trained":
            raise ValueError(f"method {text!r}: a baseline's table is frozen, its bytes could not store what trains.")
        try:
            number = float(ratio) if ratio else None
        except ValueError as error:
            raise ValueError(f"method {text!r}: the ratio must be a number, got {ratio!r}.") from error
        return cls(kind, number, "frozen" if table == "frozen" or kind in BASELINE_NAMES else "trained")

    @property
    def model_name(self) -> str:
        """Of the checkpoint: the same for a trained and a frozen table."""
        return self.kind if self.ratio is None else f"{self.kind}-{self.ratio:g}x"

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.model_name}, {'table frozen' if self.table == 'frozen' else 'table trained'}"


@dataclass(frozen=True, eq=False)
class Contender:
    """A method with its checkpoint.

    Attributes:
        method: what it is.
        subject: its checkpoint.
        stored_bytes: of the table; None for "dense".
    """

    method: Method
    subject: Subject
    stored_bytes: int | None


def default_methods(ratios: tuple[float, ...] = (25.0, 103.0)) -> list[Method]:
    """Dense and LightToken both ways, and at each ratio the baselines of the field."""
    methods = [Method(DENSE), Method(DENSE, table="frozen")]
    for ratio in ratios:
        methods += [Method(LIGHTTOKEN, ratio), Method(LIGHTTOKEN, ratio, "frozen")]
        methods += [Method(name, ratio, "frozen") for name in ("svd_fp16", "direction_autoencoder_fp16", "opq_fp16")]
    return methods


def make_contender(method: Method, source: str | os.PathLike[str], models: Path) -> Contender:
    """Makes the checkpoint of a method, or finds it from an earlier call.

    Args:
        method: what to make.
        source: the dense checkpoint.
        models: folder of the checkpoints.

    Raises:
        SourceError: if there is no usable dense checkpoint.
        ValueError: if the ratio cannot be met, or another source's checkpoint is in its place.
    """
    dense = open_subject(source)
    if method.kind == DENSE:
        return Contender(method, dense, None)
    folder = models / method.model_name
    if not folder.is_dir():
        if method.kind == LIGHTTOKEN:
            compress_checkpoint(source, folder, LightTokenConfig(compression_ratio=float(method.ratio or 0)))
        else:
            baseline_checkpoint(source, folder, method.kind, float(method.ratio or 0))
    subject = open_subject(folder)
    if method.kind == LIGHTTOKEN:
        stored, fits = int(compression_report(folder).to_dict()["stored_bytes"]), subject.was_made_from(dense)
    else:
        facts = read_baseline_facts(folder)
        stored, fits = int(facts["stored_bytes"]), same_source(facts, source_facts(dense.source))
    if not fits:
        raise ValueError(f"{folder} was made from another model than {source}: give another output, or remove it.")
    return Contender(method, subject, stored)
