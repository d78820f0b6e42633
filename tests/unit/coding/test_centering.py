"""Rows relative to a mean row: against NumPy, zeros and rows at the center included."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from transformers_lighttoken.coding.centering import CenteredRows, mean_row
from transformers_lighttoken.coding.decode import decode_unscaled, row_scales, stored_center
from transformers_lighttoken.coding.encode import EncodeOptions, encode
from transformers_lighttoken.coding.packing import bits_of_bfloat16
from transformers_lighttoken.coding.plan import CodingPlan
from transformers_lighttoken.coding.refine import RefineSchedule
from transformers_lighttoken.coding.row_weights import frequency_weights
from transformers_lighttoken.coding.table_rows import as_rows
from transformers_lighttoken.compression import compress_table
from transformers_lighttoken.config import LightTokenConfig

ROWS, DIM = 600, 32
QUICK = EncodeOptions(schedule=RefineSchedule(rounds=2, sweeps=1, stage_rounds=1))


def weight(shift: float = 1.0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, DIM, generator=noise) / DIM**0.5 + shift * torch.randn(DIM, generator=noise) / DIM**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_center_is_the_weighted_mean_of_all_rows(dtype):
    rows, weights = weight().to(dtype), torch.rand(ROWS, generator=torch.Generator().manual_seed(1))
    for given in (None, weights):
        expected = np.average(rows.double().numpy(), axis=0, weights=None if given is None else given.double().numpy())
        center = stored_center({"center": mean_row(as_rows(rows), given)}).numpy()
        np.testing.assert_allclose(center, expected, rtol=2**-8, atol=1e-6)


def test_rows_of_zeros_stay_and_rows_at_the_center_are_told_from_them():
    rows = weight()
    center = bits_of_bfloat16(rows[0])
    rows[1], rows[2] = 0, stored_center({"center": center})
    read = CenteredRows(as_rows(rows), center).read(torch.tensor([1, 2, 3]))
    assert torch.equal(read[0], torch.zeros(DIM))
    assert torch.equal(read[1], rows[2] * 2**-10)
    assert torch.equal(read[2], rows[3] - stored_center({"center": center}))


def test_a_centered_table_decodes_to_center_and_scaled_codes():
    dense, plan = weight(), CodingPlan(ROWS, DIM, stage_bits=(20,), centered=True)
    dense[[3, 77]] = 0
    table = encode(dense, plan, options=QUICK)
    slots = torch.arange(ROWS)
    codes = decode_unscaled(plan, table.tensors, slots).double().numpy()
    scales = row_scales(table.tensors, "", slots, 8).double().numpy()
    expected = scales * codes + np.where(scales > 0, stored_center(table.tensors).double().numpy(), 0)
    np.testing.assert_allclose(table.decode_all().numpy(), expected, atol=1e-6)
    assert torch.equal(table.decode(torch.tensor([3, 77])), torch.zeros(2, DIM))
    assert torch.equal(table.tensors["center"], mean_row(as_rows(dense)))


def test_what_rows_have_in_common_costs_a_centered_table_nothing():
    plan = CodingPlan(ROWS, DIM, stage_bits=(20,))
    alone = encode(weight(0.0), plan, options=QUICK).decode_all() - weight(0.0)
    shifted = encode(weight(30.0), replace(plan, centered=True), options=QUICK).decode_all() - weight(30.0)
    assert float(shifted.square().sum()) == pytest.approx(float(alone.square().sum()), rel=0.05)


def test_rows_of_a_head_keep_their_products_with_themselves_and_their_mean():
    dense, config = weight(5.0), LightTokenConfig(compression_ratio=12)
    counts = torch.rand(ROWS, generator=torch.Generator().manual_seed(2)) + 0.1
    plain = compress_table(dense, config, frequencies=counts)
    table = compress_table(dense, config, frequencies=counts, head_covariance=torch.eye(DIM))
    center = stored_center(table.tensors)
    assert not plain.plan.centered
    assert torch.equal(table.tensors["center"], mean_row(as_rows(dense), frequency_weights(counts)))
    away = dense - center

    def own(rows: torch.Tensor) -> torch.Tensor:
        return ((rows - center) * away).sum(dim=1) / away.square().sum(dim=1)

    assert float(own(plain.decode_all()).mean()) < 0.93
    decoded = table.decode_all()
    along = own(decoded).square() * away.square().sum(dim=1) / (decoded - center).square().sum(dim=1)  # cosine squared
    assert float(along.mean()) < 0.95  # least squares would keep this much of the products
    wanted = (1 + 4) * along / (1 + 4 * along)  # least |x - s y|^2 + 4 (x . (x - s y))^2 / |x|^2 over s
    assert float(own(decoded).mean()) == pytest.approx(float(wanted.mean()), abs=0.003)
    assert float((own(table.decode_all()) - 1).abs().quantile(0.9)) < 0.08  # with half a step of the row scales' grid
    smaller = compress_table(table.decode_all(), LightTokenConfig(compression_ratio=16), frequencies=counts,
                             head_covariance=torch.eye(DIM), nested_in=table)  # fmt: skip
    assert torch.equal(smaller.tensors["center"], table.tensors["center"])


@pytest.mark.parametrize("scale", [1e-21, 1.0, 1e19])
def test_rows_of_any_scale_have_the_same_error(scale):
    plan, covariance = CodingPlan(ROWS, DIM, stage_bits=(20,), centered=True), torch.eye(DIM)
    options = replace(QUICK, head_covariance=covariance)
    left = encode(weight() * scale, plan, options=options).decode_all() / scale - weight()
    here = encode(weight(), plan, options=options).decode_all() - weight()
    assert float(left.square().sum()) == pytest.approx(float(here.square().sum()), rel=0.01)


def test_rows_whose_code_points_away_from_them_keep_the_center():
    roots = torch.randn(2, DIM, DIM, generator=torch.Generator().manual_seed(1))
    metric, covariance = roots @ roots.transpose(1, 2) / DIM
    dense, plan = weight(), CodingPlan(ROWS, DIM, stage_bits=(3,), centered=True)
    dense[5] = 0
    table = encode(dense, plan, None, metric, replace(QUICK, head_covariance=covariance))
    zeros = (table.decode_all() == 0).all(dim=1).nonzero().flatten()
    assert zeros.tolist() == [5]


def test_a_cut_keeps_the_center_of_the_larger_code_whatever_is_measured_for_it():
    counts = torch.rand(ROWS, generator=torch.Generator().manual_seed(2)) + 0.1
    for covariance in (None, torch.eye(DIM)):
        config = LightTokenConfig(compression_ratio=8)
        larger = compress_table(weight(), config, frequencies=counts, head_covariance=covariance)
        for given in (None, torch.eye(DIM)):
            config = LightTokenConfig(compression_ratio=12)
            cut = compress_table(weight(), config, frequencies=counts, head_covariance=given, nested_in=larger)
            assert cut.plan.centered == larger.plan.centered == (covariance is not None)
            if covariance is not None:
                assert torch.equal(cut.tensors["center"], larger.tensors["center"])
