"""The facts that a card tells: from the checkpoint's report and config, the base model's card, and evaluations."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ..checkpoint.carried import carried_are_changed
from ..checkpoint.compressed import CompressedCheckpoint
from ..config import LightTokenConfig
from ..report import CompressionReport
from .base_card import LANGUAGE, MORE_TAG, BaseCard, BaseModel, find_base
from .licence import Licence, choose_licence
from .loading import Loading, how_to_load
from .markup import one_line
from .results import Evaluated, Evaluation, MeasuredResult, is_number
from .training import TrainingAccount

_MOST_BINS = 400


@dataclass(frozen=True)
class CardWishes:
    """What a user wants in the card, beyond what is known.

    Attributes:
        license: instead of the base model's.
        license_name: with the licence "other".
        license_link: with the licence "other".
        base_model: repository of the model that was compressed.
        language: instead of the base model's.
        evaluation: JSON files of evaluations, or what they hold.
        tags: beside ours; those of the same model's earlier card where there are none.
        training: how the model was trained after it was compressed.
        base_card: the base model's card, where it is known already.
        has_base_head: whether the model has the head of its base model, and with it the task.
    """

    license: str | list[str] | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_model: str | None = None
    language: str | list[str] | None = None
    evaluation: Evaluation | Sequence[Evaluation] | None = None
    tags: Sequence[str] = ()
    training: TrainingAccount = TrainingAccount()  # noqa: RUF009 - it cannot change
    base_card: BaseCard | None = None
    has_base_head: bool = True


@dataclass(frozen=True)
class CosineHistogram:
    """How the cosines of a table's rows to the dense ones are distributed.

    Attributes:
        table: its name.
        edges: of the bins, ascending, in [-1, 1].
        counts: rows in each bin.
        mean: of the cosines.
        p01: their 1st percentile.
    """

    table: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float
    p01: float


@dataclass(frozen=True)
class CardFacts:
    """All that a card is made from.

    Attributes:
        repo_id: `namespace/name`.
        revision: branch that is pushed to; None for main.
        report: sizes and errors.
        config: how it was compressed.
        base: the model that was compressed.
        licence: of the compressed model.
        language: of the model.
        loading: the classes that load it.
        model_bytes_float32: of the dense model with all of its parameters in float32.
        evaluated: what was measured on tasks.
        cosine_histogram: of the largest table, where it was recorded.
        tags: beside ours.
        training: how the model was trained after it was compressed.
        carried_are_changed: whether weights beside the tables were changed since; None where that is not known.
    """

    repo_id: str
    revision: str | None
    report: CompressionReport
    config: LightTokenConfig
    base: BaseModel
    licence: Licence
    language: str | list[str] | None
    loading: Loading
    model_bytes_float32: int
    evaluated: Evaluated = field(default=Evaluated())  # noqa: RUF009 - it cannot change
    cosine_histogram: CosineHistogram | None = None
    tags: Sequence[str] = field(default=())
    training: TrainingAccount = TrainingAccount()  # noqa: RUF009
    carried_are_changed: bool | None = None

    @property
    def results(self) -> Sequence[MeasuredResult]:
        """Measured on tasks."""
        return self.evaluated.results

    @property
    def name(self) -> str:
        """The repository's name without its namespace."""
        return self.repo_id.rsplit("/", 1)[-1]


def gather_facts(
    api: HfApi,
    checkpoint: CompressedCheckpoint,
    report: CompressionReport,
    repo_id: str,
    wishes: CardWishes,
    *,
    revision: str | None = None,
    files: Collection[str] = (),
    evaluated: Evaluated = Evaluated(),  # noqa: B008 - it cannot change
) -> CardFacts:
    """Gathers the facts; asks the Hub for the base model's card if its licence is not known here.

    Args:
        api: the client.
        checkpoint: the compressed checkpoint.
        report: of it.
        repo_id: where it is to be.
        wishes: what the user wants in the card.
        revision: branch that is pushed to; None for main.
        files: that will be in the repository.
        evaluated: what was measured on tasks.

    Raises:
        ValueError: if a wish is malformed, or no licence is known.
        HubError: if the Hub has to be asked, and fails.
    """
    _check_wishes(wishes)
    base = _base(api, checkpoint.source.folder, report, wishes)
    return CardFacts(
        repo_id=repo_id,
        revision=revision,
        report=report,
        config=checkpoint.config,
        base=base,
        licence=choose_licence(wishes.license, wishes.license_name, wishes.license_link, base, files),
        language=wishes.language or base.card.language,
        loading=how_to_load(checkpoint.source.config, files),
        model_bytes_float32=_model_bytes_float32(checkpoint, report),
        evaluated=evaluated,
        cosine_histogram=recorded_histogram(checkpoint.config, report),
        tags=tuple(wishes.tags) or base.card.tags,
        training=wishes.training,
        carried_are_changed=carried_are_changed(checkpoint),
    )


def _check_wishes(wishes: CardWishes) -> None:
    languages = [wishes.language] if isinstance(wishes.language, str) else wishes.language or []
    for name, values, pattern in (("language", languages, LANGUAGE), ("tags", wishes.tags, MORE_TAG)):
        for value in values:
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise ValueError(f"{name} must be short words of letters and digits, got {one_line(value)!r}.")


def _base(api: HfApi, folder: Path, report: CompressionReport, wishes: CardWishes) -> BaseModel:
    base = find_base(
        api,
        folder,
        name=wishes.base_model,
        recorded=report.source,
        revision=report.revision,
        card=wishes.base_card,
        needs_licence=wishes.license is None,
    )
    task = wishes.training.pipeline_tag or (base.card.pipeline_tag if wishes.has_base_head else None)
    return replace(base, card=replace(base.card, pipeline_tag=task))


def _model_bytes_float32(checkpoint: CompressedCheckpoint, report: CompressionReport) -> int:
    """Bytes of the dense model, tied tables stored once, with its floating-point parameters in float32."""
    kept = sum(4 * math.prod(t.shape) if "F" in t.dtype else t.num_bytes for t in checkpoint.carried_tensors)
    return kept + sum((1 - len(table.dense_heads)) * table.dense_bytes_float32 for table in report.tables)


def recorded_histogram(config: LightTokenConfig, report: CompressionReport) -> CosineHistogram | None:
    """What was recorded with the largest table when it was made, if its bytes are still the same."""
    table = max(report.tables, key=lambda table: table.plan.num_embeddings)
    recorded = (config.provenance or {}).get("tables", {}).get(table.name, {})
    histogram = recorded.get("cosine_histogram") if isinstance(recorded, Mapping) else None
    if table.cosine_mean is None or table.cosine_p01 is None or not isinstance(histogram, Mapping):
        return None
    edges, counts = _bins(histogram.get("edges")), _bins(histogram.get("counts"))
    if not _is_histogram(edges, counts, table.plan.num_embeddings):
        return None
    whole = tuple(int(count) for count in counts)
    return CosineHistogram(table.name, edges, whole, table.cosine_mean, table.cosine_p01)


def _bins(values: Any) -> tuple[float, ...]:
    """Numbers as they are recorded; none if they are something else."""
    return tuple(values) if isinstance(values, list) and all(is_number(value) for value in values) else ()


def _is_histogram(edges: Sequence[float], counts: Sequence[float], rows: int) -> bool:
    if not 2 <= len(edges) == len(counts) + 1 <= _MOST_BINS:
        return False
    ascending = all(below < above for below, above in itertools.pairwise(edges))
    whole = all(count >= 0 and count == int(count) for count in counts)
    return ascending and -1.001 <= edges[0] and edges[-1] <= 1.001 and whole and sum(counts) == rows
