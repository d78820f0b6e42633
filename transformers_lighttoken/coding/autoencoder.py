"""Residual binary autoencoder trained by gradient descent, after Wang et al. 2023.

Stage s sees what the stages before it left over, r_s = x - sum_{t < s} D_t^T b_t. It encodes linearly, z = W r + c,
binarizes by a tempered sigmoid, b = 2 sigmoid(tau z) - 1, with the hard sign passed straight through, and decodes
linearly, D^T b. The temperature tau rises until a bounded share of the units is saturated; then the stage is frozen.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .initialize import residual_of
from .journal import NO_JOURNAL, Journal
from .packing import pack_bits, unpack_rows
from .quantize import dequantize_rows, quantize_rows
from .reduction import row_blocks
from .share import ALL_ROWS, RowShare
from .stage_training import BinaryStage, TrainingSchedule, train_stage


def train_chain(
    targets: Tensor,
    stage_bits: tuple[int, ...],
    alpha: float,
    seed: int,
    decoder_dtype: str = "float16",
    schedule: TrainingSchedule | None = None,
    on_stage: Callable[[int], None] | None = None,
    share: RowShare = ALL_ROWS,
    journal: Journal = NO_JOURNAL,
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
        share: which rows these are.
        journal: remembers finished stages.

    Returns:
        Codes (n, m) bool, stored decoder (m, d) and bits of its scales (m,), as `quantize_rows` gives them.
    """
    schedule = schedule or TrainingSchedule()
    residual = targets
    codes, decoders, scales = _begun(journal, targets, stage_bits)
    for stage_codes, stored, scale in zip(codes, decoders, scales, strict=True):
        residual = residual_of(residual, stage_codes, dequantize_rows(stored, scale))
    for number, bits in list(enumerate(stage_bits))[len(codes) :]:
        stage = train_stage(targets, residual, bits, alpha, seed + number, schedule, share)
        stored, scale = quantize_rows(stage.decoder.detach(), decoder_dtype)
        codes.append(_encode(stage, residual))
        residual = residual_of(residual, codes[-1], dequantize_rows(stored, scale))
        decoders.append(stored)
        scales.append(scale)
        finished = {
            "codes": pack_bits(torch.cat(codes, dim=1)),
            "decoder": torch.cat(decoders),
            "scale": torch.cat(scales),
        }
        journal.save("autoencoder", number + 1, finished)
        if on_stage is not None:
            on_stage(number)
    return torch.cat(codes, dim=1), torch.cat(decoders), torch.cat(scales)


def _begun(
    journal: Journal, rows: Tensor, stage_bits: tuple[int, ...]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Codes, decoders and scales of the stages that an earlier run has finished."""
    found = journal.load("autoencoder")
    if found is None:
        return [], [], []
    widths = list(stage_bits[: found.step])
    stored = {name: tensor.to(rows.device) for name, tensor in found.tensors.items()}
    codes = unpack_rows(stored["codes"], torch.arange(len(rows), device=rows.device), sum(widths)).bool()
    return list(codes.split(widths, dim=1)), list(stored["decoder"].split(widths)), list(stored["scale"].split(widths))


@torch.no_grad()
def _encode(stage: BinaryStage, residual: Tensor) -> Tensor:
    return torch.cat([stage.logits(block) >= 0 for _, block in row_blocks(residual)])
