"""Compression wall time against the number of rows, and peak memory against the bytes of the float32 table.

    python -m tests.benchmarks.scaling [--rows 16384 32768 65536] [--ratio 25]

The rows are drawn with the mean and covariance of all-MiniLM-L6-v2's table; Zipf frequencies give tiers. Time is linear
in V if seconds per thousand rows stay the same; the planned bits per row rise slowly with V, since more rows share the
decoder's bytes, so the time per row and bit is given too. Memory is taken in a process of its own for each size, above
the level after the imports; the table itself is counted. At most 3 times the float32 table is wanted.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.common import dense_model, peak_memory, print_table, timed
from transformers_lighttoken import LightTokenConfig, compress_table

MOST_TABLES = 3.0
_IMPORTS = "import numpy, torch\nfrom transformers_lighttoken import LightTokenConfig, compress_table"
_BODY = """
weight = torch.from_numpy(numpy.load({path!r}))
frequencies = 1 / (torch.arange(len(weight), dtype=torch.float64) + 2.7)
compress_table(weight, LightTokenConfig(compression_ratio={ratio}), frequencies=frequencies)
"""


def like_all_minilm(rows: int, seed: int = 0) -> torch.Tensor:
    """Gaussian rows with the mean and covariance of all-MiniLM-L6-v2's table. (V, 384) float32."""
    weight = dense_model().get_input_embeddings().weight.detach().double()
    mean = weight.mean(dim=0)
    values, vectors = torch.linalg.eigh((weight - mean).t() @ (weight - mean) / len(weight))
    root = (vectors * values.clamp(min=0).sqrt()).float()  # (d, d)
    noise = torch.randn(rows, len(values), generator=torch.Generator().manual_seed(seed))
    return noise @ root.t() + mean.float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", type=int, default=[16384, 32768, 65536])
    parser.add_argument("--ratio", type=float, default=25.0)
    args = parser.parse_args()
    lines: list[list[object]] = []
    for rows in args.rows:
        weight = like_all_minilm(rows)
        frequencies = 1 / (torch.arange(rows, dtype=torch.float64) + 2.7)
        config = LightTokenConfig(compression_ratio=args.ratio)
        table, seconds = timed(lambda w=weight, c=config, f=frequencies: compress_table(w, c, frequencies=f))
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "table.npy"
            np.save(path, weight.numpy())
            peak = peak_memory(_IMPORTS, _BODY.format(path=str(path), ratio=args.ratio))
        per_row = 1e3 * seconds / rows
        per_bit = 1e6 * per_row / table.plan.code_bits
        lines.append([rows, table.plan.code_bits, seconds, per_row, per_bit, peak, peak / (4 * weight.numel())])
    header = ["rows", "bits", "seconds", "seconds per 1000 rows", "ns per row and bit", "peak bytes", "of the table"]
    print(f"torch threads: {torch.get_num_threads()}")
    print_table(header, lines)
    worst = max(float(str(line[-1])) for line in lines)
    if worst > MOST_TABLES:
        raise SystemExit(f"peak memory is {worst:.2f} times the float32 table, more than {MOST_TABLES:g}")


if __name__ == "__main__":
    main()
