"""Residual binary autoencoder trained by gradient descent, after Wang et al. 2023.

Stage s sees what the stages before it left over, r_s = x - sum_{t < s} D_t^T b_t. It encodes linearly, z = W r + c,
binarizes by a tempered sigmoid, b = 2 sigmoid(tau z) - 1, with the hard sign passed straight through, and decodes
linearly, D^T b. The temperature tau rises until a bounded share of the units is saturated; then the stage is frozen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .initialize import residual_of
from .loss import direction_aware_loss
from .low_rank import principal_directions
from .quantize import dequantize_rows, quantize_rows
from .reduction import gram_matrix, row_blocks

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


def train_chain(
    targets: Tensor,
    stage_bits: tuple[int, ...],
    alpha: float,
    seed: int,
    decoder_dtype: str = "float16",
    schedule: TrainingSchedule | None = None,
    on_stage: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Trains the stages one after the other; the codes are concatenated.

    Args:
        targets: (n, d) float32 rows to code.
        stage_bits: code bits of each stage.
        alpha: of the loss L_alpha between a row and its reconstruction by all stages so far.
        seed: of the order of mini-batches.
        decoder_dtype: how decoders are stored; a later stage sees what the stored decoders leave over.
        schedule: of each stage.
        on_stage: called with the number of each finished stage.

    Returns:
        Codes (n, m) bool, stored decoder (m, d) and bits of its scales (m,), as `quantize_rows` gives them.
    """
    schedule = schedule or TrainingSchedule()
    residual = targets
    codes, decoders, scales = [], [], []
    for number, bits in enumerate(stage_bits):
        stage = _train_stage(targets, residual, bits, alpha, seed + number, schedule)
        stored, scale = quantize_rows(stage.decoder.detach(), decoder_dtype)
        stage_codes = _encode(stage, residual)
        residual = residual_of(residual, stage_codes, dequantize_rows(stored, scale))
        codes.append(stage_codes)
        decoders.append(stored)
        scales.append(scale)
        if on_stage is not None:
            on_stage(number)
    return torch.cat(codes, dim=1), torch.cat(decoders), torch.cat(scales)


@torch.no_grad()
def _encode(stage: BinaryStage, residual: Tensor) -> Tensor:
    return torch.cat([stage.logits(block) >= 0 for _, block in row_blocks(residual)])


def _initial_stage(residual: Tensor, bits: int, seed: int) -> BinaryStage:
    """Principal directions of the residual, scaled to unit variance; random directions past the dimension."""
    dim = residual.shape[1]
    directions = principal_directions(gram_matrix(residual), min(bits, dim))
    if bits > dim:
        generator = torch.Generator().manual_seed(seed)
        extra = torch.randn(bits - dim, dim, generator=generator).to(residual.device)
        directions = torch.cat([directions, extra / extra.norm(dim=1, keepdim=True)])
    sample = residual[:: residual.shape[0] // 65536 + 1] @ directions.t()  # (n, bits)
    spread = sample.std(dim=0, correction=0).clamp(min=1e-6).unsqueeze(1)
    mean_magnitude = sample.abs().mean(dim=0).unsqueeze(1)
    return BinaryStage(directions / spread, directions * mean_magnitude)


def _train_stage(
    targets: Tensor, residual: Tensor, bits: int, alpha: float, seed: int, schedule: TrainingSchedule
) -> BinaryStage:
    stage = _initial_stage(residual, bits, seed)
    optimizer = torch.optim.Adam(
        [
            {"params": [stage.encoder, stage.bias], "lr": schedule.learning_rate},
            {"params": [stage.decoder], "lr": schedule.learning_rate * float(stage.decoder.detach().std())},
        ]
    )
    order = torch.Generator().manual_seed(seed)
    temperature, best, stale = schedule.temperature, float("inf"), 0
    for _ in range(schedule.epochs):
        loss, saturated = _train_epoch(stage, optimizer, targets, residual, alpha, temperature, order, schedule)
        stale = 0 if loss < best * (1 - schedule.min_improvement) else stale + 1
        best = min(best, loss)
        if saturated < schedule.max_saturated:
            temperature *= schedule.temperature_growth
        elif stale >= schedule.patience:
            break
    return stage


def _train_epoch(
    stage: BinaryStage,
    optimizer: torch.optim.Optimizer,
    targets: Tensor,
    residual: Tensor,
    alpha: float,
    temperature: float,
    order: torch.Generator,
    schedule: TrainingSchedule,
) -> tuple[float, float]:
    """One pass over the rows; returns the mean loss and the mean share of saturated units."""
    total, saturated, batches = 0.0, 0.0, 0
    for chosen in torch.randperm(targets.shape[0], generator=order).split(schedule.batch_rows):
        rows, left_over = targets[chosen], residual[chosen]
        reconstructed, share = stage(left_over, temperature)
        loss = direction_aware_loss(rows, rows - left_over + reconstructed, alpha).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total, saturated, batches = total + float(loss.detach()), saturated + float(share), batches + 1
    return total / batches, saturated / batches
