"""Training of one stage of the binary autoencoder by gradient descent, on one process or data-parallel on several.

After Wang et al. 2023. The mini-batches do not depend on the number of processes (see `mini_batches`), and gradients
and statistics are exact sums over their pieces. So on a CPU the result is the same bit for bit for any number of
processes; on a GPU, where the pieces of a process make one product, it is the same up to rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .exact_sums import ExactSums
from .loss import direction_aware_loss
from .low_rank import principal_directions
from .mini_batches import mini_batches
from .reduction import add_exactly, gram_matrix, row_blocks
from .share import RowShare

_SATURATED = 0.95


@dataclass(frozen=True)
class TrainingSchedule:
    """How a stage is trained.

    Attributes:
        epochs: passes over the rows, at most.
        batch_rows: rows of a mini-batch.
        learning_rate: of Adam.
        temperature: tau at the start.
        temperature_growth: factor of tau per epoch while too few units are saturated.
        max_saturated: share of saturated units at which tau stops rising.
        patience: epochs without an improvement of `min_improvement` after which the stage ends.
        min_improvement: relative fall of the epoch's mean loss that counts.
    """

    epochs: int = 12
    batch_rows: int = 1024
    learning_rate: float = 2e-3
    temperature: float = 1.0
    temperature_growth: float = 1.3
    max_saturated: float = 0.7
    patience: int = 2
    min_improvement: float = 1e-3


class BinaryStage(nn.Module):
    """One linear binary autoencoder.

    Args:
        encoder: (m, d) initial encoder W.
        decoder: (m, d) initial decoder D.
    """

    def __init__(self, encoder: Tensor, decoder: Tensor) -> None:
        super().__init__()
        self.encoder = nn.Parameter(encoder.clone())
        self.bias = nn.Parameter(torch.zeros(encoder.shape[0], device=encoder.device))
        self.decoder = nn.Parameter(decoder.clone())

    def logits(self, residual: Tensor) -> Tensor:
        """Z = W r + c, (n, m)."""
        return torch.nn.functional.linear(residual, self.encoder, self.bias)

    def forward(self, residual: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Reconstruction (n, d) from straight-through codes, and the number of saturated units."""
        soft = 2.0 * torch.sigmoid(temperature * self.logits(residual)) - 1.0  # (n, m)
        hard = torch.where(soft >= 0, 1.0, -1.0)
        codes = soft + (hard - soft).detach()
        return codes @ self.decoder, (soft.detach().abs() > _SATURATED).float().sum()


def _initial_stage(residual: Tensor, bits: int, seed: int, share: RowShare) -> BinaryStage:
    """Principal directions of the residual, scaled to unit variance; random directions past the dimension."""
    dim = residual.shape[1]
    directions = principal_directions(gram_matrix(residual, share.reduce), min(bits, dim))
    if bits > dim:
        generator = torch.Generator().manual_seed(seed)
        extra = torch.randn(bits - dim, dim, generator=generator).to(residual.device)
        directions = torch.cat([directions, extra / extra.norm(dim=1, keepdim=True)])
    sums = torch.zeros(3 * bits + 1, dtype=torch.float64, device=residual.device)
    for _, block in row_blocks(residual):
        sample = block @ directions.t()  # (n, bits)
        add_exactly(sums[:-1], torch.cat([sample.sum(dim=0), sample.square().sum(dim=0), sample.abs().sum(dim=0)]))
        sums[-1] += len(block)
    sums = share.reduce(sums)
    mean, square, magnitude = (sums[:-1] / sums[-1]).view(3, bits, 1)
    spread = (square - mean.square()).clamp(min=0).sqrt().clamp(min=1e-6).float()
    return BinaryStage(directions / spread, directions * magnitude.float())


def train_stage(
    targets: Tensor,
    residual: Tensor,
    bits: int,
    alpha: float,
    seed: int,
    schedule: TrainingSchedule,
    share: RowShare,
) -> BinaryStage:
    """Trains a stage on what the stages before it left over.

    Args:
        targets: (n, d) float32 rows of this process.
        residual: (n, d) float32 what is left of them.
        bits: m.
        alpha: of the loss L_alpha.
        seed: of the order of mini-batches.
        schedule: how long.
        share: which rows these are.
    """
    stage = _initial_stage(residual, bits, seed, share)
    optimizer = torch.optim.Adam(
        [
            {"params": [stage.encoder, stage.bias], "lr": schedule.learning_rate},
            {"params": [stage.decoder], "lr": schedule.learning_rate * float(stage.decoder.detach().std())},
        ]
    )
    sums = ExactSums(share)
    rows = int(share.reduce(torch.tensor([len(targets)], dtype=torch.float64)))
    order = torch.Generator().manual_seed(seed)
    temperature, best, stale = schedule.temperature, float("inf"), 0
    for _ in range(schedule.epochs):
        total, saturated = 0.0, 0.0
        for pieces in mini_batches(rows, schedule.batch_rows, order, share, targets.device):
            parts = list(_gradients(stage, targets, residual, alpha, temperature, pieces))
            loss, units = _step(stage, optimizer, sums, parts)
            total, saturated = total + loss, saturated + units
        loss = total / rows
        stale = 0 if loss < best * (1 - schedule.min_improvement) else stale + 1
        best = min(best, loss)
        if saturated / (rows * bits) < schedule.max_saturated:
            temperature *= schedule.temperature_growth
        elif stale >= schedule.patience:
            break
    return stage


def _gradients(
    stage: BinaryStage, targets: Tensor, residual: Tensor, alpha: float, temperature: float, pieces: list[Tensor]
) -> Iterator[list[Tensor]]:
    """Sums over the rows of each piece: gradients of all parameters, losses, saturated units, and rows."""
    products = pieces if targets.device.type == "cpu" or not pieces else [torch.cat(pieces)]
    for chosen in products:
        rows, left_over = targets[chosen], residual[chosen]
        reconstructed, saturated = stage(left_over, temperature)
        loss = direction_aware_loss(rows, rows - left_over + reconstructed, alpha).sum()
        gradients = torch.autograd.grad(loss, list(stage.parameters()))
        yield [*gradients, loss.detach(), saturated, loss.new_tensor(len(chosen))]


def _step(
    stage: BinaryStage, optimizer: torch.optim.Optimizer, sums: ExactSums, parts: list[list[Tensor]]
) -> tuple[float, float]:
    """A step along the mean gradient of all processes' rows; returns the sums of losses and of saturated units."""
    parameters = list(stage.parameters())
    scalar = parameters[0].new_zeros(())
    *gradients, loss, saturated, rows = sums(parts, [*parameters, scalar, scalar, scalar])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = (gradient / rows).float()
    optimizer.step()
    return float(loss), float(saturated)
