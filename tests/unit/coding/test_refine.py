import numpy as np
import pytest
import torch

from transformers_lighttoken.coding.nested import encode_nested
from transformers_lighttoken.coding.quantize import dequantize_rows
from transformers_lighttoken.coding.refine import Objective, Refiner, RefineSchedule

ROWS, DIM, BITS = 400, 16, 40


def targets(rows=ROWS, dim=DIM, seed=0):
    matrix = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * torch.linspace(2, 0.2, dim)
    return matrix / matrix.norm(dim=1, keepdim=True)


def random_codes(rows=ROWS, bits=BITS, seed=1):
    return torch.randn(rows, bits, generator=torch.Generator().manual_seed(seed)) >= 0


def some_metric(dim=DIM):
    root = torch.randn(dim, dim, generator=torch.Generator().manual_seed(5))
    return root @ root.t() / dim + 0.3 * torch.eye(dim)


def errors(rows, codes, decoder, metric):
    difference = rows - (codes.float() * 2 - 1) @ decoder
    weighted = difference if metric is None else difference @ metric
    return (weighted * difference).sum(dim=1)


def oracle_sweep(rows, codes, decoder, order, metric):
    """One bit at a time, by trying both values."""
    signs = codes.numpy().astype(np.float64) * 2 - 1
    rows, decoder = rows.double().numpy(), decoder.double().numpy()
    metric = np.eye(rows.shape[1]) if metric is None else metric.double().numpy()
    for row in range(len(rows)):
        for bit in order:
            best = {}
            for value in (1.0, -1.0):
                signs[row, bit] = value
                difference = rows[row] - signs[row] @ decoder
                best[value] = difference @ metric @ difference
            signs[row, bit] = 1.0 if best[1.0] <= best[-1.0] else -1.0
    return torch.from_numpy(signs > 0)


@pytest.mark.parametrize("first_bit", [0, 13])
@pytest.mark.parametrize("metric", [None, some_metric()])
def test_a_sweep_is_the_oracles(metric, first_bit):
    rows, codes = targets(60), random_codes(60)
    refiner = Refiner(rows, metric, seed=3)
    decoder = refiner.refit(codes)
    order = (
        first_bit + torch.randperm(BITS - first_bit, generator=refiner._generator("cpu", 0, first_bit, 0))
    ).tolist()
    expected = oracle_sweep(rows, codes, decoder, order, metric)
    refiner.sweep(codes, Objective.of(decoder, metric), 1, 0.0, 0, first_bit)
    assert torch.equal(codes, expected)


def test_the_refit_is_least_squares():
    rows, codes = targets(), random_codes()
    expected = np.linalg.lstsq(codes.double().numpy() * 2 - 1, rows.double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(Refiner(rows).refit(codes).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("metric", [None, some_metric()])
def test_no_cold_sweep_makes_any_row_worse(metric):
    rows, codes = targets(), random_codes()
    refiner = Refiner(rows, metric)
    decoder = refiner.refit(codes)
    before = errors(rows, codes, decoder, metric)
    refiner.sweep(codes, Objective.of(decoder, metric), sweeps=2, temperature=0.0, round_number=0)
    after = errors(rows, codes, decoder, metric)
    assert bool((after <= before * (1 + 1e-4) + 1e-6).all())
    assert float(after.sum()) < 0.7 * float(before.sum())


def test_kept_correlations_need_only_the_changed_bits():
    refiner, codes = Refiner(targets()), random_codes()
    kept = refiner.correlate(codes[:, :15])
    whole, patched = refiner.correlate(codes), refiner.correlate(codes, 15, kept)
    assert torch.equal(whole.gram, patched.gram)
    assert torch.equal(whole.cross, patched.cross)


@pytest.mark.parametrize("metric", [None, some_metric()])
def test_an_objective_is_the_error_but_for_a_constant(metric):
    rows, codes = targets(), random_codes()
    decoder, short = Refiner(rows, metric).refit(codes), Refiner(rows, metric).refit(codes[:, :9])
    objective = Objective.of(decoder, metric).plus(Objective.of(short, metric), 0.5)
    signs = codes.float() * 2 - 1
    value = ((signs @ objective.gram) * signs).sum(dim=1) - 2 * (signs * (rows @ objective.pull.t())).sum(dim=1)
    energy = errors(rows, codes, torch.zeros_like(decoder), metric)
    expected = errors(rows, codes, decoder, metric) + 0.5 * errors(rows, codes[:, :9], short, metric)
    torch.testing.assert_close(value + 1.5 * energy, expected, rtol=1e-4, atol=1e-4)


def run(schedule, seed=0, metric=None, rows=None, bits=BITS):
    refiner = Refiner(targets(3000) if rows is None else rows, metric, seed)
    codes, stored, scale = encode_nested(refiner, (bits,), "int8", schedule)
    return refiner.targets, codes, dequantize_rows(stored, scale)


def test_annealing_beats_plain_descent_and_both_beat_the_start():
    schedules = [
        RefineSchedule(rounds=0, sweeps=0, stage_rounds=0),
        RefineSchedule(temperature=0.0, stage_temperature=0.0),
        RefineSchedule(),
    ]
    rows = targets(3000, dim=64)
    start, descent, annealed = (float(errors(*run(schedule, rows=rows, bits=96), None).sum()) for schedule in schedules)
    assert annealed < 0.97 * descent < 0.97 * 0.9 * start


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    first, second, other = (run(RefineSchedule(rounds=3), seed=seed)[1] for seed in (7, 7, 8))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_metric_lowers_its_own_error_at_the_plain_one_s_cost():
    metric = some_metric()
    plain, weighted = run(RefineSchedule()), run(RefineSchedule(), metric=metric)
    assert float(errors(*weighted, metric).sum()) < float(errors(*plain, metric).sum())
    assert float(errors(*weighted, None).sum()) > float(errors(*plain, None).sum())


def test_the_temperature_falls_to_zero_before_the_cold_rounds():
    schedule = RefineSchedule(rounds=10, temperature=1.0, cold_rounds=2)
    assert schedule.temperature_at(0) == 1.0
    assert schedule.temperature_at(4) == 0.5
    assert [schedule.temperature_at(number) for number in (8, 9)] == [0.0, 0.0]
