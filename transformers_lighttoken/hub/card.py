"""The model card: facts -> Markdown, by the template in hub_cards/."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from ..report.facts import TableReport, format_bytes
from .base_card import OF_THE_BASE, address_of
from .facts import CardFacts
from .markup import card_environment, code_span, one_line
from .metadata import front_matter
from .pictures import Picture, draw_pictures
from .recipe import changes_since, command, config_as_json
from .results import FILE_NAME, MeasuredResult

TEMPLATE = "card_template.md.jinja"
_MEASURED_ON = {
    "frequencies": "sequences drawn from token frequencies",
    "samples": "samples of the model's own text",
    "text": "text",
    "text and samples": "text and samples of the model's own",
}
_PACKAGE = Path(__file__).resolve().parents[1]


def render_card(facts: CardFacts, pictures: list[Picture] | None = None) -> str:
    """The card as it stands in README.md.

    The same facts give the same text.

    Args:
        facts: what is known; what is not known is left out.
        pictures: that lie beside it; those that `draw_pictures` draws when None.

    Raises:
        ImportError: if Jinja or, for pictures, matplotlib is not installed.
        FileNotFoundError: if the template is missing from the installation.
    """
    pictures = draw_pictures(facts) if pictures is None else pictures
    template = card_environment().from_string(template_path().read_text(encoding="utf-8"))
    return template.render(**_values(facts), pictures=pictures)


def template_path() -> Path:
    """Where the template lies: inside the package in a wheel, beside it in a checkout.

    Raises:
        FileNotFoundError: if it is in neither place.
    """
    places = [folder / "hub_cards" / TEMPLATE for folder in (_PACKAGE, _PACKAGE.parent)]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"{TEMPLATE} is missing from the installation: reinstall transformers-lighttoken.")


def _values(facts: CardFacts) -> dict[str, Any]:
    report, loading = facts.report, facts.loading
    where = [json.dumps(facts.repo_id), *([f"revision={json.dumps(facts.revision)}"] if facts.revision else [])]
    sizes = [*(_table_sizes(table) for table in report.tables), _model_sizes(facts)]
    return {
        "facts": facts,
        "report": report,
        "front_matter": front_matter(facts),
        "requirement": _requirement(facts),
        "classes": ", ".join([loading.model_class, *(["AutoTokenizer"] if loading.has_tokenizer else [])]),
        "base_address": address_of(facts.base.name) if facts.base.name else None,
        "several": len(report.tables) > 1,
        "load": ", ".join(where),
        "sizes": sizes,
        "is_float32": all(row["source"] == row["float32"] for row in sizes),
        "dense_table": format_bytes(sum(table.dense_bytes_source_dtype for table in report.tables)),
        "stored_table": format_bytes(report.stored_bytes),
        "table_ratio": f"{sum(t.dense_bytes_source_dtype for t in report.tables) / report.stored_bytes:.1f}",
        "dense_model": format_bytes(report.model_bytes_dense),
        "stored_model": format_bytes(report.model_bytes),
        "dense_heads": _code_spans(head for table in report.tables for head in table.dense_heads),
        "dense_head_bytes": format_bytes(sum(table.dense_head_bytes for table in report.tables)),
        "shared_heads": _code_spans(head for table in report.tables for head in table.shared_heads),
        "measured": [_fidelity(table) for table in report.tables if table.relative_error is not None],
        "results": [_result(result) for result in facts.results],
        "is_dense_unsure": any(result.dense is not None and not result.dense_is_source for result in facts.results),
        "results_file": FILE_NAME,
        "plans": [_plan(table, facts) for table in report.tables],
        "has_tiers": any(table.plan.frequent_tiers for table in report.tables),
        "command": command(facts),
        "changes": changes_since(facts),
        "config": config_as_json(facts.config),
        "versions": [f"{one_line(name)} {one_line(version)}" for name, version in sorted(report.versions.items())],
        "of_the_base": OF_THE_BASE,
        "licence": ", ".join([licences] if isinstance(licences := facts.licence.license, str) else licences),
    }


def _code_spans(names: Iterable[str]) -> str:
    return ", ".join(code_span(name) for name in names)


def _requirement(facts: CardFacts) -> str:
    """What pip installs: at least the version that wrote the checkpoint."""
    try:
        return f"transformers-lighttoken>={Version(facts.config.plugin_version)}"
    except (InvalidVersion, TypeError):
        return "transformers-lighttoken"


def _table_sizes(table: TableReport) -> dict[str, Any]:
    return _sizes(
        f"table {code_span(table.name)}",
        table.stored_bytes,
        table.dense_bytes_float32,
        table.dense_bytes_source_dtype,
    )


def _model_sizes(facts: CardFacts) -> dict[str, Any]:
    report = facts.report
    return _sizes("whole model", report.model_bytes, facts.model_bytes_float32, report.model_bytes_dense)


def _sizes(name: str, stored: int, float32: int, source: int) -> dict[str, Any]:
    return {
        "name": name,
        "stored": f"{format_bytes(stored)} ({stored:,} bytes)",
        "float32": f"{format_bytes(float32)}, {float32 / stored:.2f} times",
        "source": f"{format_bytes(source)}, {source / stored:.2f} times",
    }


def _fidelity(table: TableReport) -> dict[str, str]:
    figures = {"error": table.relative_error, "mean": table.cosine_mean, "p01": table.cosine_p01}
    return {"name": table.name} | {key: f"{value:.4f}" for key, value in figures.items() if value is not None}


def _result(result: MeasuredResult) -> dict[str, str]:
    details = [result.setting, result.split, f"mean of {result.runs} runs" if (result.runs or 1) > 1 else None]
    error = f" ± {_figure(result.standard_error)}" if result.standard_error is not None else ""
    return {
        "task": ", ".join([result.task, *(detail for detail in details if detail)]),
        "metric": result.metric,
        "value": _figure(result.value) + error,
        "dense": _figure(result.dense) if result.dense is not None else "",
        "share": f"{100 * result.value / result.dense:.1f} %" if result.dense else "",
    }


def _figure(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _plan(table: TableReport, facts: CardFacts) -> dict[str, Any]:
    plan = table.plan
    recorded = (facts.config.provenance or {}).get("tables", {}).get(table.name, {})
    return {
        "name": table.name,
        "shape": f"{plan.num_embeddings:,} rows of {plan.embedding_dim}",
        "dtype": table.source_dtype,
        "rank": plan.rank,
        "code_bits": plan.bits_of_every_row,
        "stages": len(plan.stage_bits),
        "tiers": [f"{tier.coverage:,}" for tier in plan.frequent_tiers],
        "leaning": f"{plan.num_leaning:,}" if plan.num_leaning else None,
        "exact": f"{plan.num_exact:,}",
        "measured_on": _MEASURED_ON.get(str(recorded.get("measured_on"))),
        "not_measured": recorded.get("measured_on") == "dropped",
    }
