"""Products with coded rows are those with the decoded rows, and so are their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import random_table, reference_tier, with_index
from transformers_lighttoken.coding import product as product_module
from transformers_lighttoken.coding.decode import decode_positions, row_scales, stored_matrix
from transformers_lighttoken.coding.packing import pack_bits
from transformers_lighttoken.coding.plan import CodingPlan, Tier
from transformers_lighttoken.coding.product import TableProduct, sum_bytes
from transformers_lighttoken.coding.quantize import dequantize_rows
from transformers_lighttoken.coding.table import CompressedTable
from transformers_lighttoken.coding.trellis import trellis_bits

ROWS = 60
TRELLIS = {"a bit a value": 1, "a bit a pair": 2}
"""Values that share a bit."""


@st.composite
def plans(draw: st.DrawFn) -> CodingPlan:
    """Plans of every part, in every width."""
    dim, exact = draw(st.sampled_from([4, 7, 16])), draw(st.integers(0, 6))
    kinds = draw(st.lists(st.sampled_from([*TRELLIS, 0, 1, 2, 3, 4]), max_size=3))  # bits per dimension, 0: learnt
    coverages = sorted(draw(st.lists(st.integers(1, ROWS - exact), min_size=len(kinds), max_size=len(kinds))))[::-1]
    after = [None, *kinds][: len(kinds)]
    tiers = tuple(
        Tier(rows, "learnt", draw(st.integers(1, 11)), 0)
        if bits == 0
        else Tier(
            rows,
            "trellis",
            trellis_bits(dim, TRELLIS[bits]),
            draw(st.sampled_from([0, 4, 8] if before in TRELLIS else [4, 8])),
        )
        if isinstance(bits, str)
        else Tier(rows, "rotated", bits * dim, draw(st.sampled_from([4, 8])))
        for rows, bits, before in zip(coverages, kinds, after, strict=True)
    )
    scale_bits = draw(st.sampled_from([0, 4, 8]))
    if scale_bits and 0 not in kinds and draw(st.booleans()):
        standing = draw(st.integers(1, ROWS - exact))
        tiers = tuple(sorted((*tiers, reference_tier(standing)), key=lambda tier: -tier.coverage))
    return with_index(
        CodingPlan(
            ROWS,
            dim,
            rank=draw(st.integers(0, 2)),
            stage_bits=tuple(draw(st.lists(st.integers(1, 9), max_size=2))),
            row_scale_bits=scale_bits,
            tiers=tiers,
            num_exact=exact,
            whitening_rank=draw(st.sampled_from([0, 3])),
            centered=scale_bits > 0 and draw(st.booleans()),
        )
    )


def values_that_train(table: CompressedTable) -> dict[str, Tensor]:
    """The stored tensors, matrices and row scales as float32 parameters."""
    plan, stored = table.plan, dict(table.tensors)
    tiers = {f"tier_{number}_": tier.row_scale_bits for number, tier in enumerate(plan.tiers, start=1)}
    coverage = {"": plan.num_coded} | {f"tier_{number}_": tier.coverage for number, tier in enumerate(plan.tiers, 1)}
    values = {name: stored_matrix(stored, name) for name in stored if name.endswith(("decoder", "low_rank_right"))}
    if plan.rank:
        values["low_rank_left"] = dequantize_rows(stored["low_rank_left"], stored["low_rank_left_scale"])
    for prefix, bits in ({"": plan.row_scale_bits} | tiers).items():
        if bits:
            values[prefix + "row_scale"] = row_scales(stored, prefix, torch.arange(coverage[prefix]), bits).flatten()
    values["exact_rows"] = stored["exact_rows"]
    return stored | {name: value.detach().clone().requires_grad_() for name, value in values.items()}


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(1, 5), st.integers(0, 40), st.integers(0, 99))
def test_products_are_those_with_decoded_rows(plan: CodingPlan, states: int, rows: int, seed: int) -> None:
    table, noise = random_table(plan, seed), torch.Generator().manual_seed(seed)
    hidden, positions = torch.randn(states, plan.embedding_dim, generator=noise), torch.randperm(ROWS)[:rows]
    expected = hidden @ decode_positions(plan, table.tensors, positions).t()
    actual = TableProduct(plan, table.tensors, hidden).columns(positions)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(plans(), st.integers(0, 99))
def test_gradients_are_those_through_decoded_rows(plan: CodingPlan, seed: int) -> None:
    table, noise = random_table(plan, seed), torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, plan.embedding_dim, generator=noise)
    upstream, positions = torch.randn(3, ROWS, generator=noise), torch.randperm(ROWS, generator=noise)

    def gradients(decoded: bool) -> dict[str, Tensor]:
        stored, states = values_that_train(table), hidden.clone().requires_grad_()
        logits = (
            states @ decode_positions(plan, stored, positions).t()
            if decoded
            else TableProduct(plan, stored, states).columns(positions)
        )
        (logits * upstream).sum().backward()
        found = {name: value.grad for name, value in stored.items() if value.requires_grad} | {"hidden": states.grad}
        return {name: value for name, value in found.items() if value is not None and value.numel()}

    expected, actual = gradients(decoded=True), gradients(decoded=False)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("states", [1, 2, 5])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_sums_of_bytes_are_those_of_numpy(states: int, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_module, "_STATES_AT_ONCE", 2)
    generator = np.random.default_rng(bits)
    codes, levels = generator.integers(0, 2**bits, (9, 11)), generator.normal(size=2**bits).astype(np.float32)
    numbers = generator.normal(size=(states, 11)).astype(np.float32)
    binary = np.array([[f"{code:0{bits}b}" for code in row] for row in codes])
    packed = np.array([[int(char) for char in "".join(row).ljust(-(-11 * bits // 8) * 8, "0")] for row in binary])
    row_bytes = pack_bits(torch.from_numpy(packed.astype(np.uint8))).view(9, -1)
    shifts = range(8 - bits, -1, -bits)
    values = np.array([[levels[byte >> shift & 2**bits - 1] for shift in shifts] for byte in range(256)])
    sums = sum_bytes(torch.from_numpy(numbers), row_bytes, torch.from_numpy(values))
    np.testing.assert_allclose(sums.numpy(), levels[codes] @ numbers.T, rtol=1e-5, atol=1e-5)


def test_products_of_rows_are_kept_for_row_scales_alone() -> None:
    table = random_table(with_index(CodingPlan(ROWS, 16, rank=2, stage_bits=(6, 5))))
    training, hidden = values_that_train(table), torch.randn(3, 16, requires_grad=True)
    assert TableProduct(table.plan, training, hidden).keeps_products
    fixed = training | {"row_scale": training["row_scale"].detach()}
    product = TableProduct(table.plan, fixed, hidden)
    assert not product.keeps_products

    saved: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(tuple(x.shape)) or x, lambda x: x):
        logits = product.columns(torch.arange(ROWS))
    assert logits.requires_grad
    assert (ROWS, 3) not in saved
    assert (3, ROWS) not in saved


def test_products_with_rows_that_others_lean_on_are_computed_once(monkeypatch):
    monkeypatch.setattr(product_module, "_FEWEST_ROWS", 1)
    plan = with_index(
        CodingPlan(ROWS, 16, stage_bits=(9,), tiers=(Tier(50, "trellis", 16, 8), reference_tier(25)), num_exact=3)
    )
    table, hidden = random_table(plan), torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    product, computed = TableProduct(plan, table.tensors, hidden), []
    own = product._own
    monkeypatch.setattr(product, "_own", lambda slots: computed.append(slots.numel()) or own(slots))
    positions = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = torch.cat([product.columns(part) for part in positions.split(20)], dim=1)
    expected = hidden @ decode_positions(plan, table.tensors, positions).t()
    assert torch.allclose(found, expected, atol=1e-5)
    assert sum(computed) == ROWS - 3
