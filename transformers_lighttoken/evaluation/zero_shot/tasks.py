"""The measurements that need no fine-tuning, each by one name: for `lighttoken evaluate`."""

import os
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from ...modeling.positions import longest_input
from ..data import load_hub_rows, load_hub_text, load_rows, load_text
from ..fine_tuning.summary import Figure, difference
from ..subject import Subject
from .encoders import sentence_encoder
from .language_modeling import PerplexityResult, perplexity, pseudo_perplexity
from .similarity import spearman_of

_WINDOWS = {"perplexity": 512, "pseudo-perplexity": 128}
_TITLES = {"stsb-zero-shot": "STS-B", "perplexity": "Perplexity", "pseudo-perplexity": "Pseudo-perplexity"}
_KINDS = {"stsb-zero-shot": "sentence-similarity", "perplexity": "text-generation", "pseudo-perplexity": "fill-mask"}


def zero_shot_results(
    name: str,
    subject: Subject,
    dense: Subject | None,
    data: str | os.PathLike[str] | None,
    max_tokens: int | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measures a model as it is, and the dense one beside it.

    Args:
        name: one of `names.ZERO_SHOT_TASKS`.
        subject: the model.
        dense: to compare with, or None.
        data: local folder; for perplexities also a text file; None for STS-B or wikitext-2 from the Hub.
        max_tokens: read only the first so many tokens of the text; None for all.
        device: to compute on.

    Returns:
        One result, as a model card and programs read it.

    Raises:
        ValueError: if the model has no head for it, or data or tokenizer are of no use.
        OSError: if data cannot be read.
    """
    material = _material(name, data)
    figure, count = _measure(name, subject, material, max_tokens, device)
    metric = "spearman" if name == "stsb-zero-shot" else name.replace("-", "_")
    place = {"dataset": "nyu-mll/glue", "dataset_config": "stsb"} if metric == "spearman" else {}
    entry: dict[str, Any] = {
        "task": _TITLES[name], "metric": metric, "value": figure.value, "standard_error": figure.standard_error,
        "setting": "zero-shot", "task_type": _KINDS[name], **({} if data is not None else place),
        "split": "validation", "n": count, "standard_error_over": figure.error_over,
    }  # fmt: skip
    if dense is not None:
        entry |= difference(figure, _measure(name, dense, material, max_tokens, device)[0])
    return [{key: value for key, value in entry.items() if value is not None}]


def _material(name: str, data: str | os.PathLike[str] | None) -> Any:
    path = None if data is None else Path(data).expanduser()
    if name == "stsb-zero-shot":
        return load_hub_rows("stsb", "validation") if path is None else load_rows(path, "stsb", "validation")
    if path is None:
        return load_hub_text()
    return path.read_text(encoding="utf-8") if path.is_file() else load_text(path)


def _measure(name: str, subject: Subject, material: Any, max_tokens: int | None, device: str) -> tuple[Figure, int]:
    if name == "stsb-zero-shot":
        similarity = spearman_of(sentence_encoder(subject, device), material)
        return Figure.of([similarity.spearman], similarity.standard_error), similarity.n
    tokenizer, causal = subject.tokenizer(), name == "perplexity"
    model = subject.model(AutoModelForCausalLM if causal else AutoModelForMaskedLM, needs_head=True).to(device)
    window = min(_WINDOWS[name], longest_input(model, tokenizer) or _WINDOWS[name])
    measure = perplexity if causal else pseudo_perplexity
    result: PerplexityResult = measure(model, tokenizer, material, window, max_tokens)
    return Figure.of([result.perplexity], result.standard_error), result.n
