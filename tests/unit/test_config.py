import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformers_lighttoken.coding.plan import CodingPlan
from transformers_lighttoken.config import FORMAT_VERSION, TRAINABLE_PARTS, LightTokenConfig
from transformers_lighttoken.version import __version__

CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "compression_ratio": st.floats(1.01, 1000.0),
        "rank": st.none() | st.integers(0, 64),
        "code_bits": st.none() | st.integers(0, 4096),
        "num_stages": st.none() | st.integers(1, 32),
        "alpha": st.floats(1.0, 20.0),
        "seed": st.integers(0, 2**63 - 1),
        "solver": st.sampled_from(["refined", "paper"]),
        "warm_start": st.sampled_from(["closed_form", "autoencoder"]),
        "tie_policy": st.sampled_from(["share", "dense", "error"]),
        "tiers": st.sampled_from(["auto", "equal"]),
        "metric": st.sampled_from(["auto", "plain"]),
        "decoder_dtype": st.sampled_from([None, "int8", "float16"]),
        "trainable": st.none() | st.lists(st.sampled_from(TRAINABLE_PARTS), max_size=3),
        "modules_to_not_convert": st.none() | st.lists(st.text(max_size=8), max_size=3),
    },
)


@given(CONFIGS)
def test_json_brings_every_field_back(fields):
    config = LightTokenConfig(**fields)
    back = LightTokenConfig(**json.loads(json.dumps(config.to_dict())))
    assert back.to_dict() == config.to_dict()
    for name, value in fields.items():
        assert getattr(back, name) == value


def test_what_a_checkpoint_must_say_is_always_written():
    fields = LightTokenConfig().to_dict()
    assert fields["quant_method"] == "lighttoken"
    assert fields["format_version"] == FORMAT_VERSION == 1
    assert fields["plugin_version"] == __version__
    assert "tables" not in fields


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compression_ratio": 1.0}, "compression_ratio must be a finite number greater than 1, got 1.0"),
        ({"compression_ratio": float("nan")}, "compression_ratio must be a finite number"),
        ({"compression_ratio": "25"}, "got '25'"),
        ({"alpha": 0.5}, "alpha must be a finite number at least 1, got 0.5"),
        ({"rank": -1}, "rank must be an integer of at least 0, got -1"),
        ({"trainable": ["codes"]}, r"trainable must be a list of any of \['decoder', .*, got \['codes'\]"),
        ({"trainable": "decoder"}, "trainable must be a list of any of .*, got 'decoder'"),
        ({"rank": 2.5}, "rank must be an integer of at least 0, got 2.5"),
        ({"code_bits": True}, "code_bits must be an integer of at least 0, got True"),
        ({"num_stages": 0}, "num_stages must be an integer of at least 1, got 0"),
        ({"seed": -3}, "seed must be an integer of at least 0 and at most 9223372036854775807, got -3"),
        ({"seed": 2**63}, "seed must be .* at most 9223372036854775807, got 9223372036854775808"),
        ({"solver": "fast"}, r"solver must be one of \['refined', 'paper'\], got 'fast'"),
        ({"tie_policy": None}, "tie_policy must be one of"),
        ({"tiers": "many"}, "tiers must be one of"),
        ({"metric": "own"}, "metric must be one of"),
        ({"decoder_dtype": "int4"}, "decoder_dtype must be one of"),
        ({"modules_to_not_convert": "lm_head"}, "modules_to_not_convert must be a list of module names, got 'lm_head'"),
        ({"tables": ["a"]}, "tables must map one or more module names to coding plans"),
        ({"tables": {}}, "tables must map one or more module names to coding plans, got {}"),
    ],
)
def test_wrong_values_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        LightTokenConfig(**fields)


def test_a_misspelt_name_is_refused_with_the_nearest():
    with pytest.raises(TypeError, match=r"no argument 'compresion_ratio' \(did you mean 'compression_ratio'\?\)"):
        LightTokenConfig(compresion_ratio=25)
    with pytest.raises(TypeError, match="no argument 'bits'"):
        LightTokenConfig.from_dict({"quant_method": "lighttoken", "bits": 4})


def test_a_newer_format_says_so_before_anything_else():
    with pytest.raises(ValueError, match=r'format_version 2; .* pip install -U "transformers-lighttoken>=9\.0"'):
        LightTokenConfig(format_version=2, plugin_version="9.0", key_of_the_future=1)


def test_update_validates_too():
    config = LightTokenConfig()
    assert config.update(alpha=3.0, unknown=1) == {"unknown": 1}
    with pytest.raises(ValueError, match="alpha must be"):
        config.update(alpha=0.0)


def test_plans_are_read_and_damaged_ones_named():
    plan = CodingPlan(1000, 16, stage_bits=(20,))
    config = LightTokenConfig(tables={"embeddings": plan.to_dict()})
    assert config.is_compressed
    assert config.plans() == {"embeddings": plan}
    config = LightTokenConfig(tables={"embeddings": {**plan.to_dict(), "rank": 99}})
    with pytest.raises(ValueError, match=r"tables\['embeddings'\] is damaged: rank must be in \[0, 15\]"):
        config.plans()
