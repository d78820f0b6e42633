"""Closed-form decoders and discrete code refinement. Beyond the paper.

Given codes B, the decoder is a ridge least-squares solve. Given a decoder D and a metric M, with G = D M D^T and
H = D M x, each bit has a closed-form best value given the others, b_j = sign(H_j - sum_{i != j} G_ji b_i). The two
alternate. Early sweeps add Gaussian noise to H that falls to zero (simulated annealing, like the stochastic relaxations
of LSQ++, Martinez et al. 2018), which leads out of the local minima of plain descent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .packing import signs_of
from .quantize import dequantize_rows, quantize_rows
from .reduction import RowSource, add_exactly, row_blocks, row_places
from .share import ALL_ROWS, RowShare
from .threads import for_each

_GROUP_BITS = 32
_RIDGE = 1e-6


@dataclass(frozen=True)
class RefineSchedule:
    """How long and how warm to refine.

    Attributes:
        rounds: sweeps over all bits of all rows followed by a refit of the decoder.
        sweeps: passes over the bits of a row in one round.
        temperature: standard deviation of the noise at the start, in units of the bit's own energy G_jj.
        cold_rounds: rounds without noise at the end.
        stage_rounds: rounds that each stage gets alone, before all are refined together.
        stage_temperature: of the noise at the start of these.
    """

    rounds: int = 8
    sweeps: int = 3
    temperature: float = 0.3
    cold_rounds: int = 1
    stage_rounds: int = 3
    stage_temperature: float = 0.3

    @property
    def of_one_stage(self) -> "RefineSchedule":
        """The schedule of a stage alone."""
        return replace(self, rounds=self.stage_rounds, temperature=self.stage_temperature)

    def temperature_at(self, round_number: int) -> float:
        """Noise of one round: falls linearly to zero at the first of the cold rounds."""
        warm = self.rounds - self.cold_rounds
        return self.temperature * max(0.0, 1.0 - round_number / warm) if warm > 0 else 0.0


@dataclass(frozen=True)
class Correlations:
    """What the best decoder for given codes depends on, in float64.

    Attributes:
        gram: (m, m) B^T B.
        cross: (m, d) B^T X.
        count: rows n.
    """

    gram: Tensor
    cross: Tensor
    count: Tensor

    def decoder(self, code_bits: int | None = None) -> Tensor:
        """Least-squares decoder of the first `code_bits` bits, best in any metric. (code_bits, d) float32."""
        gram, cross = self.gram[:code_bits, :code_bits], self.cross[:code_bits]
        ridge = _RIDGE * self.count.clamp(min=1) * torch.eye(len(gram), dtype=torch.float64, device=gram.device)
        return torch.linalg.solve(gram + ridge, cross).float()


@dataclass(frozen=True)
class Objective:
    """A quadratic error of codes, b G b^T - 2 b P x^T for the code b of a row x.

    Attributes:
        pull: (m, d) float32 P.
        gram: (m, m) float32 G.
    """

    pull: Tensor
    gram: Tensor

    @classmethod
    def of(cls, decoder: Tensor, metric: Tensor | None) -> "Objective":
        """The error |x - b D|^2 in a metric: P = D M, G = D M D^T."""
        pull = decoder if metric is None else decoder @ metric
        return cls(pull, pull @ decoder.t())

    def plus(self, other: "Objective", weight: float) -> "Objective":
        """The sum with `weight` times an objective of the first bits alone."""
        bits = other.gram.shape[0]
        pull, gram = self.pull.clone(), self.gram.clone()
        pull[:bits] += weight * other.pull
        gram[:bits, :bits] += weight * other.gram
        return Objective(pull, gram)


class Refiner:
    """Alternates code sweeps and decoder refits for one group of codes.

    Args:
        targets: (n, d) float32 rows to code, norms of at most about 1; rows of this process, or what makes them.
        metric: (d, d) float32 positive semi-definite M of the error (x - y)^T M (x - y); None for the plain one.
        seed: of orders and noise.
        share: which rows these are.
    """

    def __init__(
        self, targets: RowSource, metric: Tensor | None = None, seed: int = 0, share: RowShare = ALL_ROWS
    ) -> None:
        self.targets = targets
        self.metric = metric
        self.seed = seed
        self.share = share
        self._energy: float | None = None

    def correlate(self, codes: Tensor, first_bit: int = 0, kept: Correlations | None = None) -> Correlations:
        """Sums over all rows of all processes.

        Args:
            codes: (n, m) bool.
            first_bit: bits before it have not changed since `kept` was summed.
            kept: the correlations of those bits.
        """
        bits, dim = codes.shape[1], self.targets.shape[1]
        sums = torch.zeros(bits - first_bit, bits + dim + 1, dtype=torch.float64, device=codes.device)
        for (_, block), (_, rows) in zip(row_blocks(codes), row_blocks(self.targets), strict=True):
            signs = signs_of(block)  # (n, m)
            changed = signs[:, first_bit:].t()  # (m - first_bit, n)
            sums[:, :bits] += changed @ signs  # integers: exact
            add_exactly(sums[:, bits:-1], changed @ rows)
            sums[:, -1] += block.shape[0]
        sums = self.share.reduce(sums)
        gram, cross, count = sums[:, :bits], sums[:, bits:-1], sums[0, -1]
        if kept is not None:
            gram = torch.cat([torch.cat([kept.gram, gram[:, :first_bit].t()], dim=1), gram])
            cross = torch.cat([kept.cross, cross])
        return Correlations(gram, cross, count)

    def refit(self, codes: Tensor) -> Tensor:
        """Best decoder for the codes, in any metric: D = argmin |X - B D|^2 + ridge.

        Args:
            codes: (n, m) bool.

        Returns:
            (m, d) float32.
        """
        return self.correlate(codes).decoder()

    def sweep(
        self,
        codes: Tensor,
        objective: Objective,
        sweeps: int,
        temperature: float,
        round_number: int,
        first_bit: int = 0,
    ) -> None:
        """Sets every bit to its best value given the others, in place.

        Args:
            codes: (n, m) bool, changed in place.
            objective: the error to lower.
            sweeps: passes over the bits.
            temperature: of the noise, in units of each bit's own energy.
            round_number: with the seed and `first_bit`, fixes order and noise.
            first_bit: bits before it stay as they are.
        """
        changing = codes.shape[1] - first_bit
        order = first_bit + torch.randperm(changing, generator=self._generator("cpu", round_number, first_bit, 0))
        order = order.to(codes.device)
        pull, rows_of_gram = objective.pull[order], objective.gram[order]
        gram = rows_of_gram[:, order].contiguous()

        def sweep_block(numbered: tuple[int, slice]) -> None:
            number, place = numbered
            block = codes[place]
            signs = signs_of(block[:, order].t().contiguous())  # (changing, n)
            gradient = (pull @ self.targets[place].t()).addmm_(gram, signs, alpha=-1)  # (changing, n) = P x - G b
            if first_bit:
                kept = signs_of(block[:, :first_bit]).t()  # (first_bit, n)
                gradient.addmm_(rows_of_gram[:, :first_bit], kept, alpha=-1)
            block_number = 1 + self.share.block_number(number)
            noise = self._generator(str(codes.device), round_number, first_bit, block_number)
            for _ in range(sweeps):
                _sweep_block(signs, gradient, gram, temperature, noise)
            block[:, order] = (signs > 0).t()

        for_each(enumerate(row_places(len(codes), codes.device)), sweep_block, codes.device)

    def anneal(
        self,
        codes: Tensor,
        schedule: RefineSchedule,
        first_bit: int = 0,
        prefixes: Mapping[int, float] | None = None,
        on_round: Callable[[Correlations], None] | None = None,
        first_round: int = 0,
    ) -> Correlations:
        """Alternates sweeps and refits as a schedule says.

        Args:
            codes: (n, m) bool, changed in place.
            schedule: rounds and noise.
            first_bit: bits before it stay as they are.
            prefixes: numbers of first bits whose error alone counts too, each with its weight.
            on_round: given the correlations after each round.
            first_round: rounds that an earlier run has finished. The codes are all that the further ones depend on.

        Returns:
            The correlations of the final codes.
        """
        found = self.correlate(codes)
        kept = Correlations(found.gram[:first_bit, :first_bit], found.cross[:first_bit], found.count)
        for round_number in range(first_round, schedule.rounds):
            objective = self._objective(found.decoder(), found, prefixes or {})
            temperature = schedule.temperature_at(round_number)
            self.sweep(codes, objective, schedule.sweeps, temperature, round_number, first_bit)
            found = self.correlate(codes, first_bit, kept)
            if on_round is not None:
                on_round(found)
        return found

    def finish(
        self,
        codes: Tensor,
        found: Correlations,
        decoder_dtype: str,
        schedule: RefineSchedule,
        first_bit: int = 0,
        prefixes: Mapping[int, float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rounds the decoder; a last sweep makes the codes after `first_bit` make up for the rounding.

        Returns:
            Stored decoder (m, d) and bits of its scales (m,), as `quantize_rows` gives them.
        """
        stored, scale = quantize_rows(found.decoder(), decoder_dtype)
        objective = self._objective(dequantize_rows(stored, scale), found, prefixes or {})
        self.sweep(codes, objective, schedule.sweeps, 0.0, schedule.rounds, first_bit)
        return stored, scale

    def relative_error(self, found: Correlations) -> float:
        """Squared error that the best decoder leaves, as a share of the rows' energy, in the plain metric."""
        if self._energy is None:
            energy = torch.zeros(1, dtype=torch.float64, device=self.targets.device)
            for _, rows in row_blocks(self.targets):
                add_exactly(energy, rows.square().sum())
            self._energy = float(self.share.reduce(energy))
        explained = float((found.decoder().double() * found.cross).sum())
        return max(0.0, 1.0 - explained / self._energy) if self._energy > 0 else 0.0

    def _objective(self, decoder: Tensor, found: Correlations, prefixes: Mapping[int, float]) -> Objective:
        objective = Objective.of(decoder, self.metric)
        for bits, weight in prefixes.items():
            objective = objective.plus(Objective.of(found.decoder(bits), self.metric), weight)
        return objective

    def _generator(self, device: str, *numbers: int) -> torch.Generator:
        mixed = self.seed
        for number in numbers:
            mixed = (mixed * 1_000_003 + number) % (1 << 63)
        return torch.Generator(device).manual_seed(mixed)


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
