"""Coding the tables of a dense model: its tokens, its measurements, its tables."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ..coding.encode import Progress
from ..coding.journal import NO_JOURNAL, Journal
from ..coding.row_weights import checked_frequencies
from ..coding.share import ALL_ROWS, RowShare
from ..coding.table import CompressedTable
from ..coding.table_rows import TableRows, as_rows, check_finite
from ..compression import compress_table, plan_table
from ..config import LightTokenConfig
from ..progress import progress_bars
from .measure import Measurements, measure_table
from .sites import TableSite, embedding_at, find_sites
from .surgery import share_heads
from .tokens import check_tokenizer, exact_token_ids

logger = logging.getLogger(__name__)


def sites_to_compress(model: PreTrainedModel, config: LightTokenConfig) -> list[TableSite]:
    """The tables that a config wants compressed, with the heads that its tie policy lets share them.

    Raises:
        ValueError: if there is none, or a tied head where the policy is "error".
        UnsupportedEmbeddingError: if a module cannot be replaced faithfully.
    """
    if config.is_compressed:
        raise ValueError(
            "this LightTokenConfig describes a compressed checkpoint (it has `tables`), but the model is dense: pass a "
            "new LightTokenConfig(compression_ratio=...)."
        )
    sites = [share_heads(site, config.tie_policy) for site in find_sites(model, config.modules_to_not_convert)]
    if not sites:
        excluded = config.modules_to_not_convert
        raise ValueError(
            f"{type(model).__name__} has no token-embedding table to compress"
            + (f" once modules_to_not_convert={excluded!r} is left out." if excluded else ".")
        )
    return sites


def fit_tables(
    model: PreTrainedModel,
    sites: list[TableSite],
    config: LightTokenConfig,
    tokenizer: Any = None,
    frequencies: Tensor | None = None,
    calibration: str | Sequence[str] | None = None,
) -> dict[str, CompressedTable]:
    """Codes the tables of a dense model; the model is not changed.

    Args:
        model: with its weights.
        sites: tables to code.
        config: how.
        tokenizer: names the special and added tokens, which are stored exactly, and tells how frequent the others are.
        frequencies: (V,) counts or probabilities of the tokens, by id; the tokenizer's order when None.
        calibration: text to measure the model on; it is measured on text that it makes up when None.

    Returns:
        Table by owner's name.

    Raises:
        ValueError: if a table is offloaded or cannot be coded as the config asks, or the tokenizer is another model's.
    """
    tables = {}
    with progress_bars() as progress:
        context = FittingContext(config, lambda: model, tokenizer, frequencies, calibration, progress)
        for site in sites:
            weight = embedding_at(model, site.owner).weight.detach()
            if weight.is_meta:
                raise ValueError(
                    f"the table {site.owner!r} is offloaded: load the model without offloading (device_map), compress "
                    "it, and load the result as you like."
                )
            tables[site.owner], _ = fit_table(weight, site, context)
    return tables


@dataclass(frozen=True)
class FittingContext:
    """What is known where a table is coded.

    Attributes:
        config: how to code.
        load_model: gives the dense model; called only if it is to be measured.
        tokenizer: of the model, or None.
        frequencies: (V,) counts or probabilities of the tokens, or None.
        calibration: text to measure the model on, or None.
        progress: told of each step.
        share: which rows this process codes.
        journal: remembers what is finished of the table.
        nested_in: a larger code of the table, where the result is to keep the first bits of its base code.
        on_error: told the error so far.
        measure: does the measuring, on the process where it is to be done, and gives its result to all.
    """

    config: LightTokenConfig
    load_model: Callable[[], PreTrainedModel]
    tokenizer: Any = None
    frequencies: Tensor | None = None
    calibration: str | Sequence[str] | None = None
    progress: Progress | None = None
    share: RowShare = ALL_ROWS
    journal: Journal = NO_JOURNAL
    nested_in: CompressedTable | None = None
    on_error: Callable[[float], None] | None = None
    measure: Callable[[Callable[[], Measurements]], Measurements] = lambda work: work()


def fit_table(
    weight: Tensor | TableRows, site: TableSite, context: FittingContext
) -> tuple[CompressedTable, Measurements]:
    """Measures the model and codes one table.

    Args:
        weight: (V, d), on the device to compute on, or read by rows.
        site: where the table belongs.
        context: what is known.

    Returns:
        The coded table, and what was measured for it.

    Raises:
        ValueError: if it cannot be coded as the config asks, the tokenizer is another model's, or the frequencies are
            not one per row.
    """
    table = as_rows(weight)
    check_finite(table, context.share)
    config, rows = context.config, table.shape[0]
    frequencies = checked_frequencies(context.frequencies, rows)
    if context.tokenizer is not None:
        check_tokenizer(context.tokenizer, rows)
    exact_ids = [] if context.tokenizer is None else exact_token_ids(context.tokenizer, rows)
    plan_table(table, config, exact_ids, share=context.share)  # refuses what cannot be met before measuring
    measured = context.measure(
        lambda: measure_table(
            context.load_model, site, rows, config, context.tokenizer, frequencies, context.calibration
        )
    )
    coded = compress_table(
        table,
        config,
        exact_ids=exact_ids,
        frequencies=measured.frequencies,
        metric=measured.metric,
        head_covariance=measured.head_covariance,
        progress=context.progress,
        share=context.share,
        journal=context.journal,
        nested_in=context.nested_in,
        on_error=context.on_error,
    )
    return coded, measured


def tokenizer_of(model: PreTrainedModel, sites: list[TableSite]) -> Any:
    """The tokenizer beside a model's checkpoint, or None, with a warning that says what is lost.

    Args:
        model: that was loaded from the checkpoint.
        sites: tables that the tokenizer has to fit.
    """
    from transformers import AutoTokenizer

    source = model.config.name_or_path
    try:
        if not source:
            raise ValueError("it was made in memory")
        tokenizer = AutoTokenizer.from_pretrained(source, revision=getattr(model.config, "_commit_hash", None))
        for site in sites:
            check_tokenizer(tokenizer, embedding_at(model, site.owner).weight.shape[0])
        return tokenizer
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the model can be compressed without
        logger.warning(
            "No tokenizer was found beside the model %s(%s): LightToken stores no special tokens exactly and takes the "
            "order of ids for that of frequency. Load the model dense and call compress_model(model, config, "
            "tokenizer=...) to name one.",
            f"{source!r} " if source else "",
            str(error).splitlines()[0] if str(error) else type(error).__name__,
        )
        return None
