"""What share of its bits a refined binary code makes use of, over tables and rates: its error and the Gaussian limit.

    python -m tests.benchmarks.code_efficiency [--tables all-minilm 0 0.7 1.5] [--rates 0.15 0.3 0.6 1.2 1.8 2.5 4]

A table is coded at a number of bits per row, without tiers, metric or exact rows. The share of bits used is the rate at
which a Gaussian source with the second moment of the rows, taken at unit norm as the code takes them, has the same
error, over the rate of the code. `coding.prediction` plans with the share in the column after it. Tables named by a
number are Gaussian: of 256 columns whose variances fall as that power of their number, 0 for a flat spectrum.

The formula was fitted to powers of 0 to 2.5, to SmolLM2's table in its metrics and without, and to spectra of two
levels; shares of 0.51 to 0.88 were met. It misses SmolLM2's by 0.03 at most and smooth spectra by 0.07, and promises up
to 0.18 too much where a component outweighs the others ten thousandfold. A share by the rate alone was right at powers
of 0.7, but 0.05 off for SmolLM2, and 0.17 for flat spectra at low rates.

What was tried for better codes and does not pay, on 10000 unit rows of all-MiniLM at 400 bits, error 0.1933: three
restarts of the worst tenth of rows from other signs, the better kept, 0.1932; of all rows 0.1924 for three times the
time (12 rounds in the place of 8: 0.1896 for half as much again). The first 1 to 8 principal coefficients in 2 or 4
bits each, in the place of as many code bits: 0.1936 to 0.1957. What pays and is in use: a last sweep after the
decoder is rounded to int8. Starting from the trained autoencoder (`warm_start`) is no better than from random signs.
"""

import argparse

import torch
from torch import Tensor

from tests.benchmarks.common import print_table, timed
from tests.benchmarks.real_tables import TABLE_NAMES, load_table
from transformers_lighttoken import LightTokenConfig, compress_table
from transformers_lighttoken.coding.prediction import code_efficiency
from transformers_lighttoken.coding.water_filling import gaussian_distortion

_BISECTIONS = 40


def gaussian_table(rows: int = 16384, dim: int = 256, exponent: float = 0.7, seed: int = 0) -> Tensor:
    """Independent Gaussian columns of standard deviation 1 / number ** (exponent / 2). (V, d) float32."""
    deviations = torch.arange(1, dim + 1).float() ** (-exponent / 2)
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * deviations


def share_of_bits(eigenvalues: Tensor, bits: int, error: float) -> float:
    """Rate at which the Gaussian limit is `error`, over `bits`; by bisection.

    Args:
        eigenvalues: (d,) of the source's second moment.
        bits: per row, that the code has.
        error: of the code, as a share of the source's energy.
    """
    low, high = 0.0, 2.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_distortion(eigenvalues, middle * bits) > error else (low, middle)
    return low


def measure(weight: Tensor, bits: int) -> tuple[float, float, float, float]:
    """Error of a refined code on rows of unit norm, Gaussian limit at its rate, share of bits used and planned with."""
    units = torch.nn.functional.normalize(weight.double()).float()  # (V, d)
    config = LightTokenConfig(code_bits=bits, tiers="equal", metric="plain")
    decoded = compress_table(units, config).decode_all()
    error = float((units - decoded).double().square().sum() / units.double().square().sum())
    eigenvalues = torch.linalg.eigvalsh(units.double().t() @ units.double())
    share, planned = share_of_bits(eigenvalues, bits, error), code_efficiency(eigenvalues, bits)
    return error, gaussian_distortion(eigenvalues, bits), share, planned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["all-minilm", "0", "0.7", "1.5"]
    parser.add_argument("--tables", nargs="*", default=names, help=f"of {', '.join(TABLE_NAMES)}, or powers")
    parser.add_argument(
        "--rates", nargs="*", type=float, default=[0.15, 0.3, 0.6, 1.2, 1.8, 2.5, 4.0], help="bits per dimension"
    )
    args = parser.parse_args()
    lines: list[list[object]] = []
    for name in args.tables:
        weight = load_table(name).weight if name in TABLE_NAMES else gaussian_table(exponent=float(name))
        for rate in args.rates:
            bits = max(1, round(rate * weight.shape[1]))
            (error, limit, share, planned), seconds = timed(lambda w=weight, b=bits: measure(w, b))
            lines.append([name, bits, rate, error, limit, share, planned, seconds])
    header = ["table", "bits", "per dimension", "error", "Gaussian limit", "share of bits used", "planned", "seconds"]
    print_table(header, lines)


if __name__ == "__main__":
    main()
