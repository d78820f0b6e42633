"""Closed-form decoders and discrete code refinement. Beyond the paper.

Given codes B, the decoder is a ridge least-squares solve. Given a decoder D and a metric M, with G = D M D^T and
H = D M x, each bit has a closed-form best value given the others, b_j = sign(H_j - sum_{i != j} G_ji b_i). The two
alternate. Early sweeps add Gaussian noise to H that falls to zero (simulated annealing, like the stochastic relaxations
of LSQ++, Martinez et al. 2018), which leads out of the local minima of plain descent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .quantize import dequantize_rows, quantize_rows
from .reduction import Reduce, add_exactly, local_sum, row_blocks

_GROUP_BITS = 32
_RIDGE = 1e-6


@dataclass(frozen=True)
class RefineSchedule:
    """How long and how warm to refine.

    Attributes:
        rounds: sweeps over all rows followed by a refit of the decoder.
        sweeps: passes over all bits of a row in one round.
        temperature: standard deviation of the noise at the start, in units of the bit's own energy G_jj.
        cold_rounds: rounds without noise at the end.
    """

    rounds: int = 10
    sweeps: int = 3
    temperature: float = 0.3
    cold_rounds: int = 1

    def temperature_at(self, round_number: int) -> float:
        """Noise of one round: falls linearly to zero at the first of the cold rounds."""
        warm = self.rounds - self.cold_rounds
        return self.temperature * max(0.0, 1.0 - round_number / warm) if warm > 0 else 0.0


class Refiner:
    """Alternates code sweeps and decoder refits for one group of codes.

    Args:
        targets: (n, d) float32 rows to code, norms of at most about 1; rows of this process.
        metric: (d, d) float32 positive semi-definite M of the error (x - y)^T M (x - y); None for the plain one.
        seed: of orders and noise.
        reduce: sums over processes.
        first_block: number of this process's first block among those of all processes.
    """

    def __init__(
        self,
        targets: Tensor,
        metric: Tensor | None = None,
        seed: int = 0,
        reduce: Reduce = local_sum,
        first_block: int = 0,
    ) -> None:
        self.targets = targets
        self.metric = metric
        self.seed = seed
        self.reduce = reduce
        self.first_block = first_block

    def refit(self, codes: Tensor) -> Tensor:
        """Best decoder for the codes, in any metric: D = argmin |X - B D|^2 + ridge.

        Args:
            codes: (n, m) bool.

        Returns:
            (m, d) float32.
        """
        bits, dim = codes.shape[1], self.targets.shape[1]
        sums = torch.zeros(bits, bits + dim + 1, dtype=torch.float64, device=codes.device)
        for (_, block), (_, rows) in zip(row_blocks(codes), row_blocks(self.targets), strict=True):
            signs = block.float() * 2 - 1  # (n, m)
            sums[:, :bits] += signs.t() @ signs  # integers: exact
            add_exactly(sums[:, bits:-1], signs.t() @ rows)
            sums[:, -1] += block.shape[0]
        sums = self.reduce(sums)
        gram, cross, count = sums[:, :bits], sums[:, bits:-1], sums[0, -1]
        gram = gram + _RIDGE * count.clamp(min=1) * torch.eye(bits, dtype=torch.float64, device=codes.device)
        return torch.linalg.solve(gram, cross).float()

    def sweep(self, codes: Tensor, decoder: Tensor, sweeps: int, temperature: float, round_number: int) -> None:
        """Sets every bit to its best value given the others, in place.

        Args:
            codes: (n, m) bool, changed in place.
            decoder: (m, d) float32.
            sweeps: passes over all bits.
            temperature: of the noise, in units of each bit's own energy.
            round_number: with the seed, fixes order and noise.
        """
        bits = decoder.shape[0]
        order = torch.randperm(bits, generator=self._generator("cpu", round_number, 0)).to(codes.device)
        ordered = decoder[order]
        weighted = ordered if self.metric is None else ordered @ self.metric  # (m, d) = D M
        gram = weighted @ ordered.t()  # (m, m)
        for number, (place, rows) in enumerate(row_blocks(self.targets)):
            block = codes[place]
            signs = (block[:, order].float() * 2 - 1).t().contiguous()  # (m, n)
            gradient = weighted @ rows.t() - gram @ signs  # (m, n) = H - G b
            generator = self._generator(str(codes.device), round_number, 1 + self.first_block + number)
            for _ in range(sweeps):
                _sweep_block(signs, gradient, gram, temperature, generator)
            block[:, order] = (signs > 0).t()

    def run(
        self,
        codes: Tensor,
        decoder_dtype: str,
        schedule: RefineSchedule,
        on_round: Callable[[int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Refines codes in place and returns the stored decoder.

        The last sweep uses the decoder as it is stored, so that the codes make up for its rounding.

        Returns:
            Stored decoder (m, d) and bits of its scales (m,), as `quantize_rows` gives them.
        """
        decoder = self.refit(codes)
        for round_number in range(schedule.rounds):
            self.sweep(codes, decoder, schedule.sweeps, schedule.temperature_at(round_number), round_number)
            decoder = self.refit(codes)
            if on_round is not None:
                on_round(round_number)
        stored, scale = quantize_rows(decoder, decoder_dtype)
        self.sweep(codes, dequantize_rows(stored, scale), schedule.sweeps, 0.0, schedule.rounds)
        return stored, scale

    def _generator(self, device: str, round_number: int, stream: int) -> torch.Generator:
        mixed = (self.seed * 1_000_003 + round_number) * 1_000_003 + stream
        return torch.Generator(device).manual_seed(mixed % (1 << 63))


def _sweep_block(signs: Tensor, gradient: Tensor, gram: Tensor, temperature: float, noise: torch.Generator) -> None:
    """One pass over the bits of a block of rows, in groups so that most of the work is matrix products.

    Args:
        signs: (m, n) float32 of -1 and +1, changed in place.
        gradient: (m, n) float32 H - G b, kept up to date in place.
        gram: (m, m) float32.
        temperature: of the noise, in units of G_jj.
        noise: generator on the device.
    """
    energy = gram.diagonal()
    for first in range(0, signs.shape[0], _GROUP_BITS):
        group = slice(first, min(first + _GROUP_BITS, signs.shape[0]))
        before = signs[group].clone()
        local = gradient[group].clone()
        if temperature > 0:
            strength = (temperature * energy[group]).unsqueeze(1)
            local += torch.randn(local.shape, generator=noise, device=local.device) * strength
        for row, bit in enumerate(range(group.start, group.stop)):
            field = local[row] + signs[bit] * energy[bit]
            best = torch.where(field >= 0, 1.0, -1.0)
            if bit + 1 < group.stop:
                local[row + 1 :].addr_(gram[bit + 1 : group.stop, bit], best - signs[bit], alpha=-1)
            signs[bit] = best
        gradient.addmm_(gram[:, group], signs[group] - before, alpha=-1)
