"""Trains the levels of the trellis codes: the table in `transformers_lighttoken/coding/trellis_levels.py`.

Gaussian values are coded, then each level moves to the mean of the values that it was chosen for (the generalized Lloyd
algorithm, Linde et al. 1980, for a trellis). Levels of inverted windows stay opposite. The best of several starts, by
the error on values that were not trained on, is printed; then the error of the levels in use over lengths of rows,
beside what `trellis_error` plans with.

    python -m tests.benchmarks.trellis_levels [--widths 1 2] [--starts 4] [--rounds 100]
"""

import argparse

import torch
from torch.nn.functional import pad

from tests.benchmarks.common import print_table
from transformers_lighttoken.coding.trellis import (
    FEWEST_CLOSED_BITS,
    LEVEL_UNIT,
    MEMORY_BITS,
    nearest_code,
    trellis_error,
    trellis_levels,
)

ROWS, DIM = 64, 1024
COUNT = 2 << MEMORY_BITS
LARGEST = 127


def chosen_windows(values, levels):
    """The windows of code bits, (n, bits) int64, whose levels were chosen."""
    bits = nearest_code(values, levels).long()
    preceded = pad(bits, (MEMORY_BITS, 0))
    if bits.shape[1] >= FEWEST_CLOSED_BITS:
        preceded[:, :MEMORY_BITS] = bits[:, -MEMORY_BITS:]
    windows = torch.zeros_like(bits)
    for age in range(MEMORY_BITS + 1):
        windows |= preceded[:, MEMORY_BITS - age : preceded.shape[1] - age] << age
    return windows


def error_of(levels, dim):
    """Mean squared error of rows of unit variance."""
    values = torch.randn(4 * ROWS * DIM // dim, dim, generator=torch.Generator().manual_seed(-1))
    return float((values - levels[chosen_windows(values, levels)].flatten(1)).square().mean())


def opposite(half):
    """All levels from those of the windows that start with 0."""
    return torch.cat([half, -half.flip(0)])


def train(width, rounds, seed):
    """Levels, rounded to their unit. (512, width)."""
    generator = torch.Generator().manual_seed(seed)
    levels = opposite(0.8 * torch.randn(COUNT // 2, width, generator=generator))
    sums, numbers = torch.zeros(COUNT, width), torch.zeros(COUNT)
    for number in range(rounds):
        values = torch.randn(ROWS, DIM, generator=generator)
        windows = chosen_windows(values, levels).flatten()
        parts = values.unflatten(1, (-1, width)).flatten(0, 1)
        memory = 0.5 if number < rounds // 2 else 0.95
        sums = (memory * sums).index_add_(0, windows, parts)
        numbers = (memory * numbers).index_add_(0, windows, torch.ones(windows.numel()))
        both = (numbers + numbers.flip(0)).unsqueeze(1)
        levels = torch.where(both > 1, (sums - sums.flip(0)) / both.clamp(min=1), levels)
        if number < rounds // 3:
            levels += opposite(0.03 * torch.randn(COUNT // 2, width, generator=generator))
    return (levels / LEVEL_UNIT).round().clamp(-LARGEST, LARGEST) * LEVEL_UNIT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="*", default=[1, 2], help="values that share a bit")
    parser.add_argument("--starts", type=int, default=4, help="0 measures the levels in use alone")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    for width in args.widths:
        trained = sorted(
            (train(width, args.rounds, seed) for seed in range(args.starts)), key=lambda t: error_of(t, DIM)
        )
        if trained:
            print(f"{width}: errors of the starts {[round(error_of(levels, DIM), 4) for levels in trained]}")
            print((trained[0][: COUNT // 2] / LEVEL_UNIT).round().int().flatten().tolist())
        levels = trellis_levels(width, torch.device("cpu"))
        lines: list[list[object]] = []
        for dim in (16, 24, 32, 36, 40, 48, 50, 64, 80, 96, 128, 384, 768, 2048):
            lines.append([width, dim, error_of(levels, dim), trellis_error(dim, width), 2.0 ** (-2 / width)])
        print_table(["values a bit", "values of a row", "error", "planned with", "limit"], lines)


if __name__ == "__main__":
    main()
