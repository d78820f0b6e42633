"""The card tells what is known, leaves out what is not, and takes no markup from elsewhere."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tests.hub_card_rules import check_card, front_matter
from tests.unit.hub.example import HUB_CARDS, example_facts, report_of
from transformers_lighttoken.hub import card as card_module
from transformers_lighttoken.hub.base_card import BaseCard, BaseModel
from transformers_lighttoken.hub.card import render_card, template_path
from transformers_lighttoken.hub.facts import CardFacts
from transformers_lighttoken.hub.licence import Licence
from transformers_lighttoken.hub.loading import Loading
from transformers_lighttoken.hub.pictures import draw_pictures
from transformers_lighttoken.hub.results import Evaluated, MeasuredResult

NASTY = (
    "x\n---\nlicense: gpl\n---\n# Buy! [now](javascript:alert(1)) ![p](https://evil.example) <script>alert(1)</script> "
    "`a` | b | {{ 7 * 7 }} @all"
)
TABLE = "embeddings.word_embeddings"


@pytest.fixture(scope="module")
def facts() -> CardFacts:
    return example_facts()


def with_table(facts: CardFacts, **changes: Any) -> CardFacts:
    (table,) = facts.report.tables
    return replace(facts, report=replace(facts.report, tables=(replace(table, **changes),)))


def body(card: str) -> str:
    return ModelCard(card).text


class TestExample:
    def test_is_current(self, facts: CardFacts):
        """If this fails after a change of the template: `python -m tests.unit.hub.example`."""
        assert render_card(facts) == (HUB_CARDS / "example.md").read_text(encoding="utf-8")

    def test_pictures_are_current(self, facts: CardFacts):
        for picture in draw_pictures(facts):
            there, drawn = HUB_CARDS / picture.path, Path(picture.path)
            assert f"Description\0{picture.text}".encode() in there.read_bytes()
            new = matplotlib.image.imread(io.BytesIO(picture.data))
            old = matplotlib.image.imread(there)
            assert old.shape == new.shape, drawn
            assert np.abs(old - new).mean() < 0.02  # other versions draw the letters a little differently

    def test_front_matter_is_valid_and_complete(self, facts: CardFacts):
        card = render_card(facts)
        assert check_card(card) == ([], [])
        data = front_matter(card) or {}
        assert list(data) == [
            *("base_model", "language", "library_name", "license", "pipeline_tag", "tags", "base_model_relation"),
            "model-index",
        ]
        assert data["base_model_relation"] == "quantized"
        assert ModelCard(card).content == card  # so that transformers and the Hub's editor write it back unchanged

    def test_figures_are_those_of_the_report(self, facts: CardFacts):
        text = body(render_card(facts))
        (table,) = facts.report.tables
        assert f"1.9 MB ({table.stored_bytes:,} bytes) | 46.9 MB, {46881792 / table.stored_bytes:.2f} times |" in text
        assert f"45.8 MB ({facts.report.model_bytes:,} bytes) | 90.9 MB, 1.98 times |" in text
        assert f"| `{TABLE}` | {table.relative_error:.4f} | {table.cosine_mean:.4f} | {table.cosine_p01:.4f} |" in text
        assert "| STS-B, zero-shot, validation | spearman | 0.8683 ± 0.0075 | 0.8672 | 100.1 % |" in text

    def test_import_comes_first(self, facts: CardFacts):
        code = body(render_card(facts)).split("```python\n")[1].split("```")[0]
        lines = code.splitlines()
        assert lines[0].startswith("import transformers_lighttoken")
        compile(code, "card", "exec")
        assert lines[1:] == [
            "from transformers import AutoModel, AutoTokenizer",
            "",
            'tokenizer = AutoTokenizer.from_pretrained("your-name/all-MiniLM-L6-v2-lighttoken")',
            'model = AutoModel.from_pretrained("your-name/all-MiniLM-L6-v2-lighttoken")',
        ]

    def test_same_facts_same_card(self, facts: CardFacts):
        assert render_card(facts) == render_card(example_facts())


class TestWhatCameAfterTheCommand:
    def test_nothing(self, facts: CardFacts):
        assert "After this command" not in render_card(facts)

    def test_training(self, facts: CardFacts):
        card = render_card(with_table(facts, relative_error=None))
        assert "After this command the table was changed, as by training or a cast.\n" in card

    def test_healing(self, facts: CardFacts):
        config = type(facts.config)(**facts.config.to_dict())
        config.provenance = {**(config.provenance or {}), "healed": [{"steps": 300}]}
        card = render_card(replace(facts, config=config))
        assert "After this command the table was healed by distillation (`lighttoken heal`).\n" in card

    def test_training_of_other_weights(self, facts: CardFacts):
        said = "other weights of the model are not the same any more: trained, cast, added or left out.\n"
        assert f"After this command {said}" in render_card(replace(facts, carried_are_changed=True))
        both = render_card(replace(with_table(facts, relative_error=None), carried_are_changed=True))
        assert f"After this command the table was changed, as by training or a cast; {said}" in both
        assert "After this command" not in render_card(replace(facts, carried_are_changed=False))

    def test_a_model_compressed_in_memory_has_no_command(self, facts: CardFacts):
        config = type(facts.config)(**facts.config.to_dict())
        config.provenance = None
        assert "lighttoken compress " not in render_card(replace(facts, config=config))


class TestLeftOut:
    def test_nothing_but_the_sizes_is_known(self, facts: CardFacts):
        bare = with_table(facts, relative_error=None, cosine_mean=None, cosine_p01=None)
        bare = replace(bare, base=BaseModel(), language=None, evaluated=Evaluated(), cosine_histogram=None)
        bare = replace(bare, loading=Loading())
        bare = replace(bare, report=replace(bare.report, versions={}, digest=None))
        card = render_card(bare)
        assert front_matter(card) == {
            "library_name": "transformers",
            "license": "apache-2.0",
            "tags": ["lighttoken", "compressed"],
        }
        text = body(card)
        for absent in (
            "cosine",
            "STS-B",
            "None",
            "nan",
            "base_model",
            "pictures/lighttoken_cosines",
            "Tokenizer",
            "fidelity",
        ):
            assert absent not in text
        for said in (
            "A model with its token-embedding table compressed",
            "How close the rows are to the dense ones was not measured",
            "No task was evaluated for this card",
            "lighttoken compress SOURCE OUTPUT --ratio 25 --seed 0",
        ):
            assert said in text

    def test_result_without_a_dataset_is_not_indexed(self, facts: CardFacts):
        result = MeasuredResult("own task", "f1", 12.3456, standard_error=0.5, runs=3)
        card = render_card(replace(facts, evaluated=Evaluated(None, (result,))))
        assert "model-index" not in (front_matter(card) or {})
        assert "| own task, mean of 3 runs | f1 | 12.35 ± 0.5000 |  |  |" in card


class TestOtherModels:
    def test_half_precision_source(self, facts: CardFacts):
        half = with_table(facts, source_dtype="bfloat16")
        text = body(render_card(half))
        assert "| | stored here | dense in float32 | dense in its own dtype |\n|---|---|---|---|\n" in text
        assert "46.9 MB, 25.01 times | 23.4 MB, 12.51 times |" in text
        assert "23.4 MB became 1.9 MB, **12.5 times\nsmaller**" in text

    def test_heads(self, facts: CardFacts):
        text = body(render_card(with_table(facts, shared_heads=("lm_head",))))
        assert "The tied output head (`lm_head`) uses the same codes.\n" in text
        text = body(render_card(with_table(facts, dense_heads=("lm_head", "other"))))
        assert "The tied output head (`lm_head`, `other`) was kept dense, which costs 93.8 MB.\n" in text

    def test_two_tables(self, facts: CardFacts):
        (table,) = facts.report.tables
        second = replace(table, name="decoder.embed_tokens")
        text = body(render_card(replace(facts, report=replace(facts.report, tables=(table, second)))))
        assert "its token-embedding tables compressed" in text
        assert "93.8 MB became 3.7 MB" in text
        assert text.count("375 code bits a row") == 2

    def test_branch_and_class(self, facts: CardFacts):
        other = replace(facts, revision="v2", loading=Loading("AutoModelForCausalLM"))
        card = render_card(other)
        name = '"your-name/all-MiniLM-L6-v2-lighttoken", revision="v2"'
        assert (
            f"from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained({name})"
            in card
        )
        assert "/blob/v2/lighttoken_evaluation.json" in card

    def test_licence_with_a_name(self, facts: CardFacts):
        card = render_card(replace(facts, licence=Licence("other", "my-terms", "LICENSE", inherited=False)))
        data = front_matter(card) or {}
        assert [data[key] for key in ("license", "license_name", "license_link")] == ["other", "my-terms", "LICENSE"]
        assert "Licence: other (my-terms).\n" in card


class TestInjection:
    def test_card_of_the_base_model(self, facts: CardFacts):
        evil = yaml.safe_dump(
            {"license": NASTY, "language": [NASTY, "en"], "pipeline_tag": NASTY, "license_name": NASTY, "tags": [NASTY]}
        )
        base = BaseCard.parse(f"---\n{evil}---\n{NASTY}")
        assert (base.license, base.language, base.pipeline_tag) == (None, ["en"], None)
        known = replace(facts, base=BaseModel("org/base", None, base), language=base.language)
        card = render_card(replace(known, licence=Licence("other", base.license_name)))
        expected = front_matter(render_card(facts)) or {}
        expected |= {"base_model": "org/base", "language": ["en"], "license": "other"}
        expected |= {"license_name": NASTY.replace("\n", " ")}
        del expected["pipeline_tag"]
        assert front_matter(card) == expected
        assert_no_markup(card, facts)

    def test_everything_that_a_checkpoint_says(self, facts: CardFacts):
        config = json.loads(json.dumps(facts.config.to_dict()))
        config["modules_to_not_convert"] = [NASTY]
        config["plugin_version"] = NASTY
        config["provenance"] |= {"versions": {NASTY: NASTY}, "source": NASTY, "revision": NASTY}
        config["provenance"]["tables"][TABLE]["measured_on"] = NASTY
        evil = type(facts.config)(**config)
        report = report_of(evil, facts.report.model_bytes)
        report = replace(report, digest=NASTY, tables=(replace(report.tables[0], name=NASTY, shared_heads=(NASTY,)),))
        result = MeasuredResult(NASTY, NASTY, 0.5, setting=NASTY, task_type=NASTY, dataset=NASTY, split=NASTY)
        card = render_card(replace(facts, config=evil, report=report, evaluated=Evaluated(None, (result,))))
        assert check_card(card) == ([], [])
        assert (front_matter(card) or {})["license"] == "apache-2.0"
        assert_no_markup(card, facts)
        assert 'pip install "transformers-lighttoken"\n' in card
        assert "lighttoken compress" not in card  # no command can say that


def assert_no_markup(card: str, facts: CardFacts) -> None:
    """As a reader's browser sees it, the card has the structure that it has without the nasty text."""
    html, plain = as_html(card), as_html(render_card(facts))
    assert "alert" in html
    for tag in ("h1", "h2", "script", "hr", "img", "th", "tr", "td"):
        assert (tag, html.count(f"<{tag}")) == (tag, plain.count(f"<{tag}"))
    allowed = {address.replace("sentence-transformers/all-MiniLM-L6-v2", "org/base") for address in links(plain)}
    assert links(html) <= links(plain) | allowed
    assert html.count("<pre") <= plain.count("<pre")
    assert "{{ 7 * 7 }}" in html  # and not 49


def as_html(card: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(ModelCard(card).text)


def links(html: str) -> set[str]:
    return set(re.findall(r'(?:href|src)="([^"]*)"', html))


class TestTemplate:
    def test_is_found_beside_the_package_and_inside_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        assert template_path() == HUB_CARDS / "card_template.md.jinja"
        package = tmp_path / "transformers_lighttoken"
        (package / "hub_cards").mkdir(parents=True)
        monkeypatch.setattr(card_module, "_PACKAGE", package)
        with pytest.raises(
            FileNotFoundError, match="card_template.md.jinja is missing from the installation: reinstall"
        ):
            template_path()
        (package / "hub_cards" / "card_template.md.jinja").write_text("inside the wheel")
        assert template_path().read_text() == "inside the wheel"
