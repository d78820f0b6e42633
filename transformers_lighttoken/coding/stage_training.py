"""Training of one stage of the binary autoencoder by gradient descent, on one process or data-parallel on several.

After Wang et al. 2023. The mini-batches are those of one process, however many share the rows: each process takes the
gradient of the rows that it holds, and what is summed over all of them is the same up to the rounding of sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .loss import direction_aware_loss
from .low_rank import principal_directions
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
        """Reconstruction (n, d) from straight-through codes, and the share of saturated units."""
        soft = 2.0 * torch.sigmoid(temperature * self.logits(residual)) - 1.0  # (n, m)
        hard = torch.where(soft >= 0, 1.0, -1.0)
        codes = soft + (hard - soft).detach()
        return codes @ self.decoder, (soft.detach().abs() > _SATURATED).float().mean()


def _initial_stage(residual: Tensor, total_rows: int, bits: int, seed: int, share: RowShare) -> BinaryStage:
    """Principal directions of the residual, scaled to unit variance; random directions past the dimension."""
    dim = residual.shape[1]
    directions = principal_directions(gram_matrix(residual, share.reduce), min(bits, dim))
    if bits > dim:
        generator = torch.Generator().manual_seed(seed)
        extra = torch.randn(bits - dim, dim, generator=generator).to(residual.device)
        directions = torch.cat([directions, extra / extra.norm(dim=1, keepdim=True)])
    sums = torch.zeros(3, bits, dtype=torch.float64, device=residual.device)
    for _, block in row_blocks(residual):
        outputs = block @ directions.t()  # (n, bits)
        add_exactly(sums, torch.stack([outputs.sum(dim=0), outputs.square().sum(dim=0), outputs.abs().sum(dim=0)]))
    mean, square, magnitude = share.reduce(sums) / total_rows
    spread = (square - mean.square()).clamp(min=1e-12).sqrt().float().unsqueeze(1)
    return BinaryStage(directions / spread, directions * magnitude.float().unsqueeze(1))


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
    total_rows = int(share.reduce(torch.tensor([len(targets)], dtype=torch.float64)))
    stage = _initial_stage(residual, total_rows, bits, seed, share)
    optimizer = torch.optim.Adam(
        [
            {"params": [stage.encoder, stage.bias], "lr": schedule.learning_rate},
            {"params": [stage.decoder], "lr": schedule.learning_rate * float(stage.decoder.detach().std())},
        ]
    )
    order = torch.Generator().manual_seed(seed)
    temperature, best, stale = schedule.temperature, float("inf"), 0
    for _ in range(schedule.epochs):
        batches = list(_batches(total_rows, schedule.batch_rows, order, share, targets.device))
        loss, saturated = _train_epoch(stage, optimizer, targets, residual, alpha, temperature, batches, share)
        stale = 0 if loss < best * (1 - schedule.min_improvement) else stale + 1
        best = min(best, loss)
        if saturated < schedule.max_saturated:
            temperature *= schedule.temperature_growth
        elif stale >= schedule.patience:
            break
    return stage


def _batches(
    total_rows: int, batch_rows: int, order: torch.Generator, share: RowShare, device: torch.device
) -> Iterator[Tensor]:
    """This process's rows of each mini-batch of an epoch, some perhaps empty."""
    held = torch.full((total_rows,), -1)
    places = share.places(total_rows, device)
    held[places] = torch.arange(len(places))
    for batch in torch.randperm(total_rows, generator=order).split(batch_rows):
        rows = held[batch]
        yield rows[rows >= 0]


def _train_epoch(
    stage: BinaryStage,
    optimizer: torch.optim.Optimizer,
    targets: Tensor,
    residual: Tensor,
    alpha: float,
    temperature: float,
    batches: list[Tensor],
    share: RowShare,
) -> tuple[float, float]:
    """One pass over the rows; returns the mean loss and the mean share of saturated units."""
    total, saturated = 0.0, 0.0
    for chosen in batches:
        rows, left_over = targets[chosen], residual[chosen]
        reconstructed, saturated_share = stage(left_over, temperature)
        losses = direction_aware_loss(rows, rows - left_over + reconstructed, alpha)
        loss = losses.mean() if len(chosen) else losses.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        values = _averaged(stage, torch.stack([loss.detach(), saturated_share]), len(chosen), share)
        optimizer.step()
        total, saturated = total + values[0], saturated + values[1]
    return total / len(batches), saturated / len(batches)


def _averaged(stage: BinaryStage, values: Tensor, rows: int, share: RowShare) -> list[float]:
    """Averages gradients, in place, and values over the rows of all processes."""
    if share.count == 1:
        return values.tolist()
    gradients = [parameter.grad for parameter in stage.parameters() if parameter.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), values.nan_to_num()]).double()
    sums = share.reduce(torch.cat([flat * rows, flat.new_tensor([rows])]))
    means = sums[:-1] / sums[-1]
    start = 0
    for gradient in gradients:
        gradient.copy_(means[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
    return means[start:].tolist()
