"""What format version 1 wrote, every later release reads, to the same values."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

import transformers_lighttoken  # noqa: F401 - registers with transformers
from tests.golden import make_tables
from transformers_lighttoken.coding.plan import CodingPlan
from transformers_lighttoken.coding.table import CompressedTable
from transformers_lighttoken.modeling.sites import owners

GOLDEN = Path(__file__).parents[1] / "golden"


def load_golden():
    model = AutoModelForMaskedLM.from_pretrained(GOLDEN / "v1")
    (embedding,) = owners(model).values()
    return model, embedding, load_file(GOLDEN / "v1_expected.safetensors")


def test_version_1_decodes_to_the_frozen_table():
    _, embedding, expected = load_golden()
    torch.testing.assert_close(embedding.table.decode_all(), expected["table"], atol=1e-6, rtol=1e-5)
    exact = embedding.table.decode(torch.tensor([0, 299]))
    assert torch.equal(exact, expected["table"][[0, 299]])


def test_the_golden_plan_uses_every_part_of_the_format():
    _, embedding, _ = load_golden()
    plan = embedding.plan
    assert (plan.rank, plan.stage_bits, plan.row_scale_bits, plan.num_exact) == (2, (7, 6), 4, 2)
    assert [tier.kind for tier in plan.tiers] == ["learnt", "rotated"]


@pytest.mark.parametrize("dim", make_tables.DIMS)
def test_a_table_of_version_1_with_trellis_tiers_decodes_to_the_frozen_rows(dim):
    with safe_open(make_tables.table_path(dim), "pt") as file:
        plan = CodingPlan.from_dict(json.loads(file.metadata()["plan"]))
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert plan.centered
    assert plan.whitening_rank == 4
    assert plan.tiers == make_tables.tiers_of(dim)
    ids, rows = stored.pop("expected_ids"), stored.pop("expected_rows")
    table = CompressedTable(plan, stored)
    assert set((table.slots(ids) < plan.num_standing).tolist()) == {False, True}
    torch.testing.assert_close(table.decode(ids), rows, atol=1e-6, rtol=1e-5)


def test_version_1_gives_the_frozen_logits():
    model, _, expected = load_golden()
    with torch.no_grad():
        logits = model(input_ids=expected["input_ids"]).logits
    torch.testing.assert_close(logits, expected["logits"], atol=1e-5, rtol=1e-4)


def test_saving_it_again_writes_the_same_table_bytes(tmp_path):
    model, _, _ = load_golden()
    model.save_pretrained(tmp_path)
    before, after = load_file(GOLDEN / "v1" / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
