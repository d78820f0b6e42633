"""The trellis code: its decoder beside a slow one, its encoder beside all codes, its error beside the literature's."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformers_lighttoken.coding.packing import pack_bits
from transformers_lighttoken.coding.trellis import (
    decode_trellis,
    encode_trellis,
    trellis_bits,
    trellis_error,
    trellis_levels,
)
from transformers_lighttoken.coding.trellis_levels import HALF_OF_LEVELS

CPU = torch.device("cpu")
WIDTHS = pytest.mark.parametrize("width", [1, 2])


def all_levels(width):
    half = np.array(HALF_OF_LEVELS[width]).reshape(256, width) / 32
    return np.concatenate([half, -half[::-1]])


def slow_levels(bits, width):
    """The levels of one row of bits, by the definition."""
    levels, values = all_levels(width), []
    memory = int("".join(str(int(bit)) for bit in bits[-8:]), 2) if len(bits) >= 24 else 0
    for bit in bits:
        window = 2 * memory + int(bit)
        values.extend(levels[window])
        memory = window % 256
    return np.array(values)


@given(rows=st.integers(1, 9), dim=st.integers(1, 70), width=st.sampled_from([1, 2]), seed=st.integers(0, 2**31))
def test_rows_decode_by_the_definition(rows, dim, width, seed):
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 2, (rows, trellis_bits(dim, width)))
    packed = pack_bits(torch.from_numpy(bits))
    slots = torch.from_numpy(generator.integers(0, rows, 5))
    decoded = decode_trellis(packed, slots, dim, width).numpy()
    assert np.array_equal(decoded, [slow_levels(bits[slot], width)[:dim] for slot in slots])


@WIDTHS
@pytest.mark.parametrize("dim", [1, 2, 5, 12])
def test_no_other_code_is_nearer(dim, width):
    values = torch.randn(20, dim, generator=torch.Generator().manual_seed(dim))
    all_codes = list(itertools.product([0, 1], repeat=trellis_bits(dim, width)))
    reachable = np.array([slow_levels(bits, width)[:dim] for bits in all_codes])  # (codes, d)
    least = ((values.numpy()[:, None] - reachable) ** 2).sum(axis=2).min(axis=1)
    packed = pack_bits(encode_trellis(values, width))
    found = (values - decode_trellis(packed, torch.arange(20), dim, width)).square().sum(dim=1)
    if dim % width == 0:  # else a value that is not there is taken for zero
        np.testing.assert_allclose(found.numpy(), least, rtol=1e-4, atol=1e-5)
    assert (found.numpy() >= least - 1e-5).all()


def least_closed_error(row, width):
    """Of all codes that start with what they end with: the Viterbi algorithm from each of the 256 memories."""
    levels = all_levels(width)
    starts, windows = np.arange(256), np.arange(512)
    cost = np.full((256, 256), np.inf)  # of each start, up to each memory
    cost[starts, starts] = 0
    for values in row.reshape(-1, width):
        steps = cost[:, windows >> 1] + ((values - levels[windows]) ** 2).sum(axis=1)  # (start, window)
        cost = np.minimum(steps[:, :256], steps[:, 256:])
    return cost[starts, starts].min()


@WIDTHS
@pytest.mark.parametrize(("bits", "more"), [(32, 0.15), (64, 0.04), (200, 0.01)])
def test_longer_codes_are_about_the_nearest_that_bite_their_tail(bits, more, width):
    values = torch.randn(30, bits * width, generator=torch.Generator().manual_seed(bits))
    least = np.array([least_closed_error(row, width) for row in values.double().numpy()])
    packed = pack_bits(encode_trellis(values, width))
    found = (values - decode_trellis(packed, torch.arange(30), bits * width, width)).square().sum(dim=1).numpy()
    assert (found >= least * (1 - 1e-5)).all()
    assert least.sum() <= found.sum() <= (1 + more) * least.sum()


@WIDTHS
def test_what_a_tier_leaves_is_coded_as_well_as_what_it_coded(width):
    """After a fixed start the first values would keep larger errors, and lose more in each further tier."""
    rows = torch.randn(600, 384, generator=torch.Generator().manual_seed(2))
    for _ in range(3):
        scale = rows.square().mean().sqrt()
        packed = pack_bits(encode_trellis(rows / scale, width))
        left = rows - decode_trellis(packed, torch.arange(len(rows)), 384, width) * scale
        assert float(left.square().sum() / rows.square().sum()) == pytest.approx(trellis_error(384, width), rel=0.03)
        rows = left
    assert float(rows[:, :8].square().mean() / rows.square().mean()) == pytest.approx(1, abs=0.1)


@WIDTHS
@pytest.mark.parametrize("dim", [20, 24, 32, 36, 64, 72, 128, 768])
def test_the_error_of_a_gaussian_is_what_is_planned_with(dim, width):
    values = torch.randn(200_000 // dim, dim, generator=torch.Generator().manual_seed(0))
    packed = pack_bits(encode_trellis(values, width))
    error = float((values - decode_trellis(packed, torch.arange(len(values)), dim, width)).square().mean())
    assert error == pytest.approx(trellis_error(dim, width), rel=0.03)
    assert error > 2.0 ** (-2 / width)


def test_a_bit_a_value_beats_independent_levels():
    assert trellis_error(384, 1) < 0.79 * 0.3634  # Max 1960
    # Tiers take their scales from these: stored tables do too.
    assert (trellis_error(100, 1), trellis_error(100, 2)) == (0.279, 0.5404)
    assert (trellis_error(20, 1), trellis_error(40, 2)) == pytest.approx((0.3535, 0.587), rel=1e-12)


@WIDTHS
@pytest.mark.parametrize("bits", [12, 20, 24, 31])
def test_further_tiers_of_short_rows_leave_what_is_planned_with(bits, width):
    dim = bits * width
    rows = torch.randn(2000, dim, generator=torch.Generator().manual_seed(2))
    for before in range(4):
        scale = rows.square().mean().sqrt()
        packed = pack_bits(encode_trellis(rows / scale, width))
        left = rows - decode_trellis(packed, torch.arange(len(rows)), dim, width) * scale
        error = float(left.square().sum() / rows.square().sum())
        assert error == pytest.approx(trellis_error(dim, width, before), rel=0.08)
        rows = left


@WIDTHS
def test_the_code_does_not_depend_on_the_rows_beside(width):
    values = torch.randn(300, 40, generator=torch.Generator().manual_seed(1))
    whole = encode_trellis(values, width)
    assert torch.equal(whole[250:], encode_trellis(values[250:], width))
    assert encode_trellis(values[:0], width).shape == (0, trellis_bits(40, width))


@WIDTHS
def test_levels_of_inverted_bits_are_opposite(width):
    levels = trellis_levels(width, CPU)
    assert levels.shape == (512, width)
    assert torch.equal(levels.flip(0), -levels)


FROZEN = {1: "82c245a09d877407", 2: "ef9af9b20d939adc"}


@WIDTHS
def test_the_levels_are_fixed_for_ever(width):
    """A stored table decodes only as long as these values stay as they are."""
    digest = hashlib.sha256(np.array(HALF_OF_LEVELS[width], dtype=np.int8).tobytes()).hexdigest()
    assert digest[:16] == FROZEN[width]


@WIDTHS
def test_a_traced_graph_decodes_the_same(width):
    packed = pack_bits(torch.randint(0, 2, (6, trellis_bits(45, width))))
    compiled = torch.compile(decode_trellis, backend="eager", fullgraph=True)
    slots = torch.tensor([4, 0, 5])
    assert torch.equal(compiled(packed, slots, 45, width), decode_trellis(packed, slots, 45, width))
