"""What is read from the card of a base model, and the licence that follows from it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformers_lighttoken.hub.base_card import BaseCard, BaseModel, as_repo_id, read_card
from transformers_lighttoken.hub.licence import Licence, choose_licence

OURS = "license: mit\nbase_model: org/base\nbase_model_relation: quantized\ntags: [lighttoken]\n"


def parse(front_matter: str) -> BaseCard:
    return BaseCard.parse(f"---\n{front_matter}\n---\ntext")


class TestParse:
    def test_all_that_is_inherited(self):
        card = parse(
            "license: other\nlicense_name: my-terms\nlicense_link: https://a.b/c\nlanguage: [en, zh-Hans]\n"
            "pipeline_tag: fill-mask\ndatasets: [x]\nbase_model: other/model\n"
        )
        assert card == BaseCard("other", "my-terms", "https://a.b/c", ["en", "zh-Hans"], "fill-mask", None)

    def test_norwegian_is_a_language_and_no_truth_value(self):
        assert parse("language: no").language == "no"
        assert parse("language:\n- no\n- yes-x").language == ["no", "yes-x"]

    def test_licences_are_inherited_all_or_none(self):
        assert parse("license: [mit, apache-2.0]").license == ["mit", "apache-2.0"]
        assert parse("license: [mit, 'My Custom Licence']").license is None

    def test_front_matter_nested_too_deep_to_read_is_left_aside(self):
        assert parse("license: " + "[" * 5000) == BaseCard()

    @pytest.mark.parametrize(
        "content", ["", "no front matter", "---\n[1, 2]\n---\n", "---\n\n---\n", "---\na: b: c\n---\n"]
    )
    def test_damaged_cards_say_nothing(self, content: str):
        assert BaseCard.parse(content) == BaseCard()

    @pytest.mark.parametrize(
        "field",
        ["license: [1: 2]", "license: 'my licence'", "license: ''", "language: {a: b}", "pipeline_tag: [a]",
         "license_link: 'javascript:alert(1)'", "license_link: ../../etc", "license_name: [a]", "language: 'en\\nde'"],
    )  # fmt: skip
    def test_what_is_malformed_is_left_aside(self, field: str):
        assert parse(field) == BaseCard()

    def test_dangerous_yaml_is_only_text(self):
        assert parse("license: !!python/object/apply:os.system ['x']") == BaseCard(license=["x"])
        bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nlanguage: *c\nlicense: mit"
        assert parse(bomb) == BaseCard(license="mit")

    def test_base_model_is_read_from_our_own_cards_alone(self):
        assert parse(OURS).base_model == "org/base"
        assert parse(OURS.replace("quantized", "finetune")).base_model is None
        assert parse(OURS.replace("lighttoken", "other")).base_model is None
        assert parse(OURS.replace("org/base", "a/b/c")).base_model is None

    def test_tags_are_read_from_our_own_cards_alone(self):
        tags = "tags: [lighttoken, compressed, sentence-transformers, mine, 'arxiv:1', 'a b']"
        assert parse(tags).tags == ("mine", "arxiv:1")
        assert parse(tags.replace("lighttoken", "other")).tags == ()

    @given(st.text(max_size=200))
    def test_no_text_breaks_it(self, text: str):
        card = BaseCard.parse(f"---\nlicense: {text}\n---\n")
        assert "\n" not in str(card.license)

    def test_files(self, tmp_path: Path):
        assert read_card(tmp_path) is None
        (tmp_path / "README.md").write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n\xff\xfe")
        assert read_card(tmp_path) == BaseCard(license="mit")

    def test_repo_ids(self):
        assert [as_repo_id(name) for name in ("org/base", "bert-base", "a/b/c", "a b", "", None, 3)] == [
            *("org/base", "bert-base", None, None, None, None, None)
        ]


class TestLicence:
    BASE = BaseModel("org/base", "abc1234", BaseCard("other", "my-terms", "LICENSE.md"))

    def test_is_inherited_with_its_name_and_link(self):
        link = "https://huggingface.co/org/base/blob/abc1234/LICENSE.md"
        assert choose_licence(None, None, None, self.BASE, []) == Licence("other", "my-terms", link, inherited=True)
        there = choose_licence(None, None, None, self.BASE, ["LICENSE.md"])
        assert there.license_link == "LICENSE.md"

    def test_link_to_a_file_that_is_nowhere_is_left_out(self):
        nameless = BaseModel(None, None, self.BASE.card)
        assert choose_licence(None, None, None, nameless, []) == Licence("other", "my-terms", None)

    def test_user_goes_first(self):
        assert choose_licence("mit", None, None, self.BASE, []) == Licence("mit", None, None, inherited=False)
        assert choose_licence(["mit", "gpl"], None, None, self.BASE, []).license == ["mit", "gpl"]

    def test_the_users_word_is_not_mixed_with_the_base_models(self):
        base = BaseModel("org/x", None, BaseCard(license="other", license_name="own", license_link="https://b.c"))
        mine = choose_licence("other", "mine", "https://m.n", base, [])
        assert mine == Licence("other", "mine", "https://m.n", inherited=False)
        for part in ({"name": "mine"}, {"link": "https://m.n"}, {}):
            missing = "license_link" if "name" in part else "license_name"
            with pytest.raises(ValueError, match=f"license 'other' says nothing .*: pass {missing}= too"):
                choose_licence("other", part.get("name"), part.get("link"), base, [])
            if part:
                with pytest.raises(ValueError, match="comes with a licence of the user's own: pass license='other'"):
                    choose_licence(None, part.get("name"), part.get("link"), base, [])
        with pytest.raises(ValueError, match="license_link must be an address"):
            choose_licence(None, None, "javascript:x", base, [])

    def test_the_same_licence_given_is_not_inherited(self):
        assert not choose_licence("mit", None, None, BaseModel("a/b", None, BaseCard("mit")), []).inherited

    def test_our_own_earlier_card_says_whose_licence_it_was(self):
        for text, inherited in (("Licence: mit, that of the base model.", True), ("Licence: mit.", False)):
            card = BaseCard.parse(f"---\n{OURS}---\n# x\n\n{text}\n\n## Citation\n")
            assert (card.is_ours, card.licence_is_inherited) == (True, inherited)
            licence = choose_licence(None, None, None, BaseModel("org/base", None, card), [])
            assert licence == Licence("mit", inherited=inherited)
        theirs = BaseCard.parse("---\nlicense: mit\n---\nLicence: mit.\n")
        assert choose_licence(None, None, None, BaseModel(None, None, theirs), []).inherited

    def test_link_to_the_card_itself_stays_in_the_base_models_repository(self):
        base = BaseModel("org/base", "abc1234", BaseCard("other", "own", "README.md"))
        link = "https://huggingface.co/org/base/blob/abc1234/README.md"
        assert choose_licence(None, None, None, base, ["README.md"]).license_link == link

    def test_is_never_made_up(self):
        with pytest.raises(ValueError, match="none was found in a card of org/x, and none was given"):
            choose_licence(None, None, None, BaseModel("org/x"), [])
        with pytest.raises(ValueError, match="none was found in any card of a base model"):
            choose_licence(None, None, None, BaseModel(), [])

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (
                ("my licence", None, None),
                "license must be an identifier of the Hub such as 'apache-2.0', got 'my licence'",
            ),
            ((["mit", 3], None, None), "license must be an identifier of the Hub such as 'apache-2.0', got '3'"),
            (([], None, None), r"license must name at least one licence, got \[\]"),
            (("other", "a", "javascript:x"), "license_link must be an address or the name of a file"),
        ],
    )
    def test_malformed(self, wrong: tuple[Any, Any, Any], message: str):
        with pytest.raises(ValueError, match=message):
            choose_licence(*wrong, BaseModel(), [])
