"""The front matter of a card."""

from huggingface_hub import EvalResult, ModelCardData

from .base_card import RELATION, TAGS, address_of
from .facts import CardFacts
from .results import FILE_NAME, MeasuredResult

_DIGITS = 6


def front_matter(facts: CardFacts) -> str:
    """The front matter as YAML, in a fixed order; what is not known is left out."""
    results = [_eval_result(facts, result) for result in facts.results if _can_be_indexed(result)]
    results += facts.training.results
    data = ModelCardData(
        library_name="transformers",
        license=facts.licence.license,  # pyright: ignore[reportArgumentType] - the Hub takes several
        license_name=facts.licence.license_name,
        license_link=facts.licence.license_link,
        language=facts.language,
        pipeline_tag=facts.base.card.pipeline_tag,
        tags=[*TAGS, *_more_tags(facts)],
        datasets=list(facts.training.datasets) or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
        base_model=facts.base.name,
        base_model_relation=RELATION if facts.base.name else None,
    )
    return data.to_yaml(line_break="\n")


def _more_tags(facts: CardFacts) -> list[str]:
    sentence = ["sentence-transformers"] if facts.loading.has_sentence_modules else []
    return list(dict.fromkeys(tag for tag in (*sentence, *facts.tags) if tag not in TAGS))


def _can_be_indexed(result: MeasuredResult) -> bool:
    """The index of results wants to know the kind of task and the dataset."""
    return bool(result.task_type and result.dataset)


def _eval_result(facts: CardFacts, result: MeasuredResult) -> EvalResult:
    return EvalResult(
        task_type=str(result.task_type),
        task_name=f"{result.task}, {result.setting}" if result.setting else result.task,
        dataset_type=str(result.dataset),
        dataset_name=result.task,
        dataset_config=result.dataset_config,
        dataset_split=result.split,
        metric_type=result.metric,
        metric_value=round(result.value, _DIGITS),
        source_name=f"{FILE_NAME}, lighttoken evaluate",
        source_url=f"{address_of(facts.repo_id)}/blob/{facts.revision or 'main'}/{FILE_NAME}",
    )
