"""What a model says about its table before it is compressed: how often tokens occur, and where errors hurt."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..config import LightTokenConfig
from .calibration import SEQUENCE_TOKENS, Calibration, from_frequencies, from_samples, from_text, token_counts
from .frequency import text_frequencies, token_frequencies
from .positions import longest_sequence
from .sensitivity import OutputStatistics, blend, input_metric, output_statistics
from .sites import TableSite, embedding_at

logger = logging.getLogger(__name__)

# Tokens to measure on, of a given text and of a model's own samples each: for gradients, and for what one pass forward
# tells. The latter noticed four times as many, see tests/benchmarks/metric_choice.py.
_MEASURED_TOKENS = 8192
_PREDICTED_TOKENS = 32768
_PROJECTIONS = 2
# What models raise that need more than token ids. Running out of memory is a RuntimeError too, but no such want.
_WANTING = (
    RuntimeError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, AttributeError,
)  # fmt: skip
_OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
DROPPED = "dropped"
# Of equal frequencies in what is guessed from a tokenizer, where the model tells none of its own: the guess says
# nothing of what a task turns on. Chosen on one model, all-MiniLM at 200x, see tests/benchmarks/metric_choice.py.
_SHARE_OF_EQUAL = 0.5
# Shares of (identity, head metric, input metric), and the power that tempers the blend (see `sensitivity.blend`). The
# input metric of a causal language model is the Fisher information of its very task, and so it weighs more than that of
# other models' outputs, of which a task needs a part. Chosen on one model of each kind by
# tests/benchmarks/metric_choice.py.
_TIED_BLEND, _TIED_POWER = (0.1, 0.75, 0.15), 0.75
_WRITER_BLEND, _WRITER_POWER = (0.2, 0.0, 0.8), 1.0
_INPUT_BLEND, _INPUT_POWER = (0.8, 0.0, 0.2), 0.5


@dataclass(frozen=True)
class Measurements:
    """What was learnt about one table.

    Attributes:
        frequencies: (V,) probabilities of the tokens; None if nothing is known of them.
        metric: (d, d) metric of the error; None for the plain one.
        head_covariance: (d, d) covariance of the hidden states that meet the table as an output head, tempered like the
            metric; None for a table that is none.
        source: where the measured sequences came from; "none" if nothing was to be measured, "dropped" if the
            model could not be run for it.
    """

    frequencies: Tensor | None = None
    metric: Tensor | None = None
    head_covariance: Tensor | None = None
    source: str = "none"


def measure_table(
    load_model: Callable[[], PreTrainedModel],
    site: TableSite,
    num_embeddings: int,
    config: LightTokenConfig,
    tokenizer: Any = None,
    frequencies: Tensor | None = None,
    calibration: str | Sequence[str] | None = None,
) -> Measurements:
    """Measures what the config asks for; what cannot be measured is left out with a warning.

    Args:
        load_model: gives the dense model with its weights; called only if a metric is to be measured.
        site: the table.
        num_embeddings: rows of the table.
        config: `tiers` says whether frequencies are wanted, `metric` whether a metric is.
        tokenizer: of the model; without it nothing is known of frequencies but what is given.
        frequencies: (V,) counts or probabilities that the user knows.
        calibration: text that the user gives; sequences are made up when None.

    Raises:
        ValueError: if calibration text is given without a tokenizer, or is empty.
    """
    prior = frequencies
    if prior is None and tokenizer is not None:
        prior = token_frequencies(tokenizer, num_embeddings)
    given = None if calibration is None else _given_text(calibration, tokenizer)
    metric, covariance, unigram, sequences = None, None, None, given
    wanted = config.metric == "auto" and config.solver == "refined" and (prior is not None or given is not None)
    if wanted:
        metric, covariance, unigram, sequences = _try_metric(load_model, site, config, tokenizer, prior, given)
    if frequencies is None and prior is not None:
        prior = estimated_frequencies(prior, unigram, calibration, tokenizer)
    source = "none" if sequences is None else sequences.source
    if wanted and metric is None:
        source = DROPPED
    return Measurements(prior if config.tiers == "auto" else None, metric, covariance, source)


def estimated_frequencies(
    prior: Tensor, unigram: Tensor | None, calibration: str | Sequence[str] | None, tokenizer: Any
) -> Tensor:
    """Token frequencies from all that is known of them.

    Args:
        prior: (V,) probabilities from the tokenizer alone.
        unigram: the model's own over what it was measured on, which replaces them; None where it has none.
        calibration: text whose counts are joined to these, or None.
        tokenizer: of the model.

    Returns:
        (V,) float64 with sum 1.
    """
    prior = _flattened(prior) if unigram is None else _fitted(unigram, prior.numel())
    if calibration is None:
        return prior
    share = 1 / 2 if unigram is None else 1 / 3  # text, the model's predictions on it, and on its own samples
    return text_frequencies(token_counts(calibration, tokenizer, prior.numel()), prior, share)


def _flattened(prior: Tensor) -> Tensor:
    """A tokenizer's frequencies and equal ones for all tokens that it may give, in some shares."""
    met = (prior > 0).double()
    return (1 - _SHARE_OF_EQUAL) * prior + _SHARE_OF_EQUAL * met / met.sum()


def _given_text(calibration: str | Sequence[str], tokenizer: Any) -> Calibration:
    if tokenizer is None:
        raise ValueError(
            "calibration text needs the model's tokenizer, and none lies beside its checkpoint: put its files there "
            "(from Python, pass tokenizer=...), or leave the text out."
        )
    return from_text(calibration, tokenizer, _PREDICTED_TOKENS)


def _try_metric(
    load_model: Callable[[], PreTrainedModel],
    site: TableSite,
    config: LightTokenConfig,
    tokenizer: Any,
    prior: Tensor | None,
    given: Calibration | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Calibration | None]:
    """Metric, head's covariance, unigram of a model that writes text, and what they were measured on; None if it fails.

    Such a model is measured on given text and on its own samples together: text alone, however long, is of one kind.
    """
    model = load_model()
    try:
        device = embedding_at(model, site.owner).weight.device
        length = min(SEQUENCE_TOKENS, longest_sequence(model) or SEQUENCE_TOKENS)
        given = None if given is None else given.within(length)
        sequences = None if given is None else given.about(_MEASURED_TOKENS)
        statistics = OutputStatistics(None)
        if _writes_text(model):
            samples = from_samples(model, _PREDICTED_TOKENS, config.seed, length)
            met = samples if given is None else given.joined(samples)
            head = model.get_submodule(site.heads[0]) if site.heads else None
            statistics = output_statistics(model, head, met.batches(device))
            samples = samples.about(_MEASURED_TOKENS)
            sequences = samples if sequences is None else sequences.joined(samples)
        elif sequences is None:
            sequences = _drawn(tokenizer, prior, config.seed, length)
        metric, covariance = _metric(model, site, sequences, statistics, config.seed)
        return metric, covariance, statistics.unigram, sequences
    except _OUT_OF_MEMORY:
        raise
    except _WANTING as error:  # models differ in what they need to run; the plain metric always works
        logger.warning(
            "No metric could be measured on %s (%s): its table is coded with the plain metric.",
            type(model).__name__,
            str(error).splitlines()[0] if str(error) else type(error).__name__,
        )
        return None, None, None, given


def _drawn(tokenizer: Any, prior: Tensor | None, seed: int, length: int) -> Calibration:
    if prior is None:
        raise ValueError("neither text nor token frequencies are known")
    return from_frequencies(prior, tokenizer, _MEASURED_TOKENS, seed, length)


def _writes_text(model: PreTrainedModel) -> bool:
    return model.can_generate() and not getattr(model.config, "is_encoder_decoder", False)


def _fitted(unigram: Tensor, num_embeddings: int) -> Tensor:
    """A unigram with one entry per row of the table, where heads and tables differ in their padding."""
    fitted = torch.nn.functional.pad(unigram, (0, max(0, num_embeddings - unigram.numel())))[:num_embeddings]
    return fitted / fitted.sum()


def _metric(
    model: PreTrainedModel, site: TableSite, sequences: Calibration, statistics: OutputStatistics, seed: int
) -> tuple[Tensor, Tensor | None]:
    """The metric of a table, and the covariance of the hidden states where it is a head too."""
    embeddings = [model.get_submodule(name) for name in (site.owner, *site.views)]
    device = embedding_at(model, site.owner).weight.device
    runner = _runner(model, embeddings, sequences, device)
    inputs = input_metric(runner, embeddings, sequences.batches(device), _PROJECTIONS, seed)
    if not site.heads:
        shares, power = (_WRITER_BLEND, _WRITER_POWER) if _writes_text(model) else (_INPUT_BLEND, _INPUT_POWER)
        return blend(zip(shares, (None, None, inputs), strict=True), inputs.shape[0], power), None
    if statistics.metric is None:
        head = model.get_submodule(site.heads[0])
        statistics = output_statistics(model, head, sequences.batches(device))
    covariance = statistics.covariance
    metric = blend(zip(_TIED_BLEND, (None, statistics.metric, inputs), strict=True), inputs.shape[0], _TIED_POWER)
    return metric, None if covariance is None else blend([(1.0, covariance)], inputs.shape[0], _TIED_POWER)


def _runner(
    model: PreTrainedModel, embeddings: list[nn.Module], sequences: Calibration, device: torch.device
) -> PreTrainedModel:
    """The outermost part of the model that holds the table and runs on token ids alone (CLIP's text model, say)."""
    first = next(sequences.batches(device))
    probe = {name: tensor[:1, :8] for name, tensor in first.items()}
    problem: Exception | None = None
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and any(module in embeddings for module in part.modules()):
            try:
                input_metric(part, embeddings, [probe], projections=1)
                return part
            except _OUT_OF_MEMORY:
                raise
            except _WANTING as error:  # the next part inwards may need less
                problem = problem or error
    raise ValueError(f"no part of {type(model).__name__} runs on token ids alone: {problem}") from problem
