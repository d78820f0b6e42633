"""The facts of hub_cards/example.md, and how to make it anew.

python -m tests.unit.hub.example                               # after a change of the template
python -m tests.unit.hub.example FOLDER EVALUATION.json        # from a compressed all-MiniLM-L6-v2
"""

import json
import sys
from pathlib import Path
from typing import Any

from transformers_lighttoken.config import LightTokenConfig
from transformers_lighttoken.hub.base_card import BaseCard, BaseModel
from transformers_lighttoken.hub.card import render_card
from transformers_lighttoken.hub.facts import CardFacts, recorded_histogram
from transformers_lighttoken.hub.licence import Licence
from transformers_lighttoken.hub.loading import Loading
from transformers_lighttoken.hub.pictures import draw_pictures
from transformers_lighttoken.hub.results import Evaluated, MeasuredResult, parse_results
from transformers_lighttoken.report import CompressionReport, TableReport

HUB_CARDS = Path(__file__).resolve().parents[3] / "hub_cards"
FACTS = Path(__file__).with_name("example_facts.json")


def example_facts() -> CardFacts:
    """As they were measured; only the name of the repository is made up."""
    stored = json.loads(FACTS.read_text())
    config = LightTokenConfig(**stored["quantization_config"])
    report = report_of(config, stored["model_bytes"])
    return CardFacts(
        repo_id="your-name/all-MiniLM-L6-v2-lighttoken",
        revision=None,
        report=report,
        config=config,
        base=BaseModel("sentence-transformers/all-MiniLM-L6-v2", None, BaseCard(pipeline_tag="sentence-similarity")),
        licence=Licence("apache-2.0"),
        language="en",
        loading=Loading("AutoModel", has_tokenizer=True, has_sentence_modules=True),
        model_bytes_float32=report.model_bytes_dense,
        evaluated=Evaluated(None, tuple(parse_results(stored["evaluation"], "evaluation"))),
        cosine_histogram=recorded_histogram(config, report),
    )


def report_of(config: LightTokenConfig, model_bytes: int) -> CompressionReport:
    """The report of a checkpoint, from its config and its size."""
    recorded: dict[str, Any] = config.provenance or {}
    tables = [
        TableReport(
            name=name,
            plan=plan,
            source_dtype=recorded["tables"][name]["source_dtype"],
            parts={f"{name}.{part}": spec.num_bytes for part, spec in plan.tensor_specs().items()},
            **{key: recorded["tables"][name].get(key) for key in ("relative_error", "cosine_mean", "cosine_p01")},
        )
        for name, plan in config.plans().items()
    ]
    return CompressionReport(
        tables=tuple(tables),
        model_bytes=model_bytes,
        digest=config.digest,
        seed=config.seed,
        solver=config.solver,
        tie_policy=config.tie_policy,
        format_version=config.format_version,
        plugin_version=config.plugin_version,
        versions=recorded.get("versions", {}),
        source=recorded.get("source"),
        revision=recorded.get("revision"),
    )


def _results(evaluation: Path) -> list[MeasuredResult]:
    return parse_results(json.loads(evaluation.read_text()), "evaluation")


def _published(result: MeasuredResult) -> dict[str, Any]:
    """As it is published; an evaluation with rows in a local folder cannot say whose they are."""
    return {**result.to_dict(), "dataset": "nyu-mll/glue", "dataset_config": "stsb"}


def main() -> None:
    """Writes hub_cards/example.md and its pictures."""
    if sys.argv[1:]:
        from transformers_lighttoken import compression_report

        folder, evaluation = Path(sys.argv[1]), Path(sys.argv[2])
        stored = {
            "model_bytes": compression_report(folder).model_bytes,
            "quantization_config": json.loads((folder / "config.json").read_text())["quantization_config"],
            "evaluation": {"results": [_published(result) for result in _results(evaluation)]},
        }
        FACTS.write_text(json.dumps(stored, indent=1) + "\n")
    facts = example_facts()
    pictures = draw_pictures(facts)
    (HUB_CARDS / "example.md").write_text(render_card(facts, pictures), encoding="utf-8")
    for picture in pictures:
        (HUB_CARDS / picture.path).parent.mkdir(exist_ok=True)
        (HUB_CARDS / picture.path).write_bytes(picture.data)


if __name__ == "__main__":
    main()
