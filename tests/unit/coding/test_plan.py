from dataclasses import replace
from functools import partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from transformers_lighttoken.coding.budget import BudgetError, even_stages, plan_equal
from transformers_lighttoken.coding.plan import CodingPlan, Tier

TIERED = CodingPlan(
    num_embeddings=1000,
    embedding_dim=48,
    rank=3,
    stage_bits=(20, 17),
    row_scale_bits=4,
    tiers=(Tier(300, "learnt", 40, 0), Tier(90, "rotated", 96, 8)),
    num_exact=5,
    exact_dtype="bfloat16",
    index_bytes=61,
)


def test_bytes_by_hand():
    expected = {
        "exact_rows": 5 * 48 * 2,
        "tier_index": 61,
        "row_scale": 498,  # ceil(995 * 4 / 8)
        "row_scale_range": 8,
        "low_rank_left": 3 * 995,
        "low_rank_left_scale": 6,
        "low_rank_right": 3 * 48,
        "low_rank_right_scale": 6,
        "codes": 4602,  # ceil(995 * 37 / 8)
        "decoder": 37 * 48,
        "decoder_scale": 74,
        "tier_1_codes": 1500,
        "tier_1_decoder": 40 * 48,
        "tier_1_decoder_scale": 80,
        "tier_2_codes": 1080,
        "tier_2_row_scale": 90,
        "tier_2_row_scale_range": 8,
    }
    assert {name: spec.num_bytes for name, spec in TIERED.tensor_specs().items()} == expected
    assert TIERED.stored_bytes == sum(expected.values())
    assert TIERED.ratio == 4 * 1000 * 48 / sum(expected.values())


def test_plans_survive_json():
    TIERED.validate()
    assert CodingPlan.from_dict(TIERED.to_dict()) == TIERED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 48}, r"rank must be in \[0, 47\] for embedding_dim 48, got 48"),
        ({"rank": -1}, "rank must be an integer of at least 0, got -1"),
        ({"num_embeddings": 10**15, "num_exact": 10**15 + 1}, "num_exact must be in"),
        ({"stage_bits": (20, 0)}, r"stage_bits\[1\] must be an integer of at least 1, got 0"),
        ({"decoder_dtype": "int3"}, "decoder_dtype must be one of"),
        ({"exact_dtype": "float8"}, "exact_dtype must be one of"),
        ({"row_scale_bits": 5}, "row_scale_bits must be 0, 4 or 8, got 5"),
        ({"index_bytes": 10**9}, "index_bytes must be at most 378 for these rows, got 1000000000"),
        ({"stage_bits": (40000,)}, "code bits must be at most 1536, those of a dense float32 row, got 40000"),
        ({"tiers": (Tier(0, "learnt", 8, 0),)}, r"coverage must be in \[1, 995\], got 0"),
        ({"tiers": (Tier(9, "rotated", 50, 8),)}, "must be 1 to 4 times embedding_dim 48, got 50"),
        ({"tiers": (Tier(9, "rotated", 48, 0),)}, "row_scale_bits must be in"),
        (
            {"tiers": (Tier(9, "trellis", 48, 8), Tier(9, "trellis", 48, 5))},
            r"tiers\[1\].row_scale_bits must be in \(0, 4, 8\) where kind is 'trellis' after another such tier, got 5",
        ),
        (
            {"tiers": (Tier(9, "rotated", 48, 8), Tier(9, "trellis", 48, 0))},
            r"row_scale_bits must be in \(4, 8\) where kind is 'trellis', got 0",
        ),
        ({"tiers": (Tier(9, "learnt", 8, 0), Tier(10, "learnt", 8, 0))}, r"must be in \[1, 9\], got 10"),
        ({"tiers": (Tier(9, "woven", 8, 0),)}, r"kind must be one of \['learnt', .*\], got 'woven'"),  # pyright: ignore
        ({"tiers": (Tier(9, "reference", 7, 0),)}, r"must be in \[8, 36\] for coverage 9, got 7"),
        ({"tiers": (Tier(9, "reference", 37, 0),)}, r"must be in \[8, 36\] for coverage 9, got 37"),
        (
            {"tiers": (Tier(9, "reference", 8, 4),)},
            r"must be in \(0,\) where kind is 'reference', got 4",
        ),
        ({"tiers": (Tier(9, "reference", 8, 0),) * 2}, "at most one of kind 'reference'"),
        ({"tiers": (Tier(9, "reference", 8, 0), Tier(5, "learnt", 8, 0))}, "no others of kind 'learnt' beside them"),
        ({"row_scale_bits": 0, "tiers": (Tier(9, "reference", 8, 0),)}, "of kind 'reference' need row scales"),
    ],
)
def test_an_absurd_plan_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TIERED, **change).validate()


def test_missing_and_unknown_fields_are_named():
    fields = TIERED.to_dict()
    fields["ranks"] = fields.pop("rank")
    with pytest.raises(ValueError, match=r"missing or unknown: \['rank', 'ranks'\]"):
        CodingPlan.from_dict(fields)


TIER = {"coverage": 9, "kind": "learnt", "code_bits": 8, "row_scale_bits": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tiers": 3}, "tiers must be a list, got 3"),
        ({"tiers": {"coverage": 1}}, "tiers must be a list, got {'coverage': 1}"),
        ({"tiers": [7]}, r"tiers\[0\] must map the fields \['code_bits', .*\] to their values, got 7"),
        ({"tiers": [TIER, {"coverage": 1}]}, r"tiers\[1\] has exactly .* missing or unknown: \['code_bits', 'kind'"),
        ({"tiers": [TIER | {"colour": 1}]}, r"tiers\[0\] has exactly .* missing or unknown: \['colour'\]"),
        ({"tiers": [TIER | {"coverage": True}]}, r"tiers\[0\].coverage must be in \[1, 995\], got True"),
        ({"tiers": [TIER | {"code_bits": True}]}, r"tiers\[0\].code_bits must be a positive integer, got True"),
        ({"tiers": [TIER | {"row_scale_bits": False}]}, r"tiers\[0\].row_scale_bits must be in \(0,\) .*, got False"),
        (
            {"tiers": [TIER | {"kind": ["learnt"]}]},
            r"tiers\[0\].kind must be one of \['learnt', .*\], got \['learnt'\]",
        ),
        ({"stage_bits": 12}, "stage_bits must be a list, got 12"),
        ({"stage_bits": ["a"]}, r"stage_bits\[0\] must be an integer of at least 1, got 'a'"),
        ({"decoder_dtype": ["int8"]}, r"decoder_dtype must be one of .*, got \['int8'\]"),
        ({"exact_dtype": {}}, "exact_dtype must be one of .*, got {}"),
        ({"rotation_seed": 2**63}, "rotation_seed must be at most 9223372036854775807, got 9223372036854775808"),
    ],
)
def test_damaged_fields_are_named_with_value_and_what_is_allowed(change, message):
    with pytest.raises(ValueError, match=message):
        CodingPlan.from_dict({**TIERED.to_dict(), **change})


@pytest.mark.parametrize("fields", [None, "plan", 3, []])
def test_what_is_no_plan_is_told(fields):
    with pytest.raises(ValueError, match="a coding plan must map the fields"):
        CodingPlan.from_dict(fields)


@given(
    st.integers(500, 300_000), st.integers(16, 2304), st.floats(1.5, 300.0), st.sampled_from(["int8", "float16"]),
    st.integers(0, 8), st.integers(0, 9),
)  # fmt: skip
def test_the_largest_plan_that_fits(rows, dim, ratio, decoder_dtype, rank, num_exact):
    template = CodingPlan(rows, dim, rank=rank, decoder_dtype=decoder_dtype, num_exact=num_exact)
    try:
        plan = plan_equal(template, ratio)
    except BudgetError as error:
        assume("ask for at most" in str(error))
        nearest = float(str(error).rsplit("ask for at most ", 1)[1].rstrip("."))
        assume(nearest > 1.01)
        assert plan_equal(template, nearest).code_bits >= 1
        return
    assert plan.ratio >= ratio
    one_more = replace(plan, stage_bits=(plan.code_bits + 1,))
    assert one_more.ratio < ratio
    if one_more.stored_bytes - plan.stored_bytes <= 0.009 * plan.stored_bytes:
        assert plan.ratio <= 1.01 * ratio


def test_all_minilm_at_25_is_within_a_percent():
    plan = plan_equal(CodingPlan(30522, 384, num_exact=5), 25.0)
    assert 25.0 <= plan.ratio < 25.25


def test_explicit_code_bits_override_the_ratio():
    plan = plan_equal(CodingPlan(30522, 384), 25.0, code_bits=100, split=partial(even_stages, num_stages=3))
    assert plan.stage_bits == (34, 33, 33)


def test_impossible_requests_name_the_nearest():
    with pytest.raises(BudgetError, match=r"needs at least 1151 bytes .* ask for at most 55\.6"):
        plan_equal(CodingPlan(1000, 16), 5000.0)
    with pytest.raises(BudgetError, match=r"code_bits 4000 .* ask for code_bits of at most 440"):
        plan_equal(CodingPlan(1000, 16), 25.0, code_bits=4000)
    with pytest.raises(BudgetError, match="num_stages must be at most code_bits 3, got 4"):
        even_stages(3, 4)
    with pytest.raises(BudgetError, match="nothing would be stored"):
        plan_equal(CodingPlan(1000, 16), 25.0, code_bits=0)


@given(st.integers(1, 5000), st.integers(1, 50))
def test_stages_add_up_and_differ_by_at_most_a_bit(code_bits, num_stages):
    assume(num_stages <= code_bits)
    stages = even_stages(code_bits, num_stages)
    assert sum(stages) == code_bits
    assert len(stages) == num_stages
    assert max(stages) - min(stages) <= 1


def test_trellis_tiers_cost_a_bit_a_value_or_a_pair_and_their_map_its_rows():
    tiers = (Tier(90, "trellis", 49, 8), Tier(70, "trellis", 25, 4))
    plan = CodingPlan(1000, 49, stage_bits=(3,), tiers=tiers, index_bytes=20, whitening_rank=6)
    plan.validate()
    sizes = {name: spec.num_bytes for name, spec in plan.tensor_specs().items()}
    assert sizes["tier_1_codes"] == (90 * 49 + 7) // 8
    assert sizes["tier_2_codes"] == (70 * 25 + 7) // 8
    assert (sizes["tier_1_row_scale"], sizes["tier_2_row_scale"]) == (90, 35)
    assert (plan.bits_of_every_row, plan.frequent_tiers) == (3, tiers)
    assert replace(plan, centered=True).stored_bytes == plan.stored_bytes + 2 * 49
    first_alone = replace(plan, tiers=(tiers[0], Tier(80, "reference", 11, 0), Tier(70, "trellis", 25, 0)))
    first_alone.validate()
    assert "tier_3_row_scale" not in first_alone.tensor_specs()
    everywhere = replace(plan, tiers=(Tier(1000, "trellis", 49, 8), tiers[1]))
    assert (everywhere.bits_of_every_row, everywhere.frequent_tiers) == (52, tiers[1:])
    assert (sizes["whitening"], sizes["whitening_scale"]) == (6 * 49, 12)
    for wrong, message in (
        (replace(plan, tiers=(Tier(9, "trellis", 50, 8),)), r"must be one of \[49, 25\] for embedding_dim 49, got 50"),
        (
            replace(plan, tiers=(Tier(9, "trellis", 49, 0),)),
            r"row_scale_bits must be in \(4, 8\) where",
        ),
        (
            replace(plan, centered=True, row_scale_bits=0),
            r"centered must be a bool, and False without row scales, got T",
        ),
        (replace(plan, centered=1), r"centered must be a bool, and False without row scales, got 1"),
        (replace(plan, whitening_rank=49), r"whitening_rank must be in \[0, 48\] for embedding_dim 49, got 49"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong.validate()


def test_plans_from_before_there_were_a_map_and_a_center_are_read():
    fields = CodingPlan(1000, 48, stage_bits=(3,)).to_dict()
    del fields["whitening_rank"], fields["centered"]
    assert CodingPlan.from_dict(fields) == CodingPlan(1000, 48, stage_bits=(3,))
