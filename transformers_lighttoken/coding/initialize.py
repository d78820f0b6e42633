"""Closed-form residual binary autoencoder stages, the start of refinement. Beyond the paper.

Each stage encodes the residual of those before it linearly, by its principal directions, takes the signs, and fits the
joint decoder of all stages by least squares. It costs a Gram matrix and a solve per stage instead of a training.
"""

import torch
from torch import Tensor

from .low_rank import principal_directions
from .reduction import gram_matrix, row_blocks
from .refine import Refiner

_BITS_PER_STEP = 128


def initialize_codes(refiner: Refiner, code_bits: int, codes: Tensor | None = None) -> Tensor:
    """Codes to start refinement from.

    Args:
        refiner: holds the rows to code.
        code_bits: m.
        codes: (n, fewer) bool, the first bits; none when None.

    Returns:
        (n, m) bool.
    """
    targets = refiner.targets
    if codes is None:
        codes = torch.zeros(targets.shape[0], 0, dtype=torch.bool, device=targets.device)
    while codes.shape[1] < code_bits:
        residual = residual_of(targets, codes, refiner.refit(codes)) if codes.shape[1] else targets
        step = min(_BITS_PER_STEP, code_bits - codes.shape[1], targets.shape[1])
        directions = principal_directions(gram_matrix(residual, refiner.share.reduce), step)  # (step, d)
        signs = torch.cat([block @ directions.t() >= 0 for _, block in row_blocks(residual)])
        codes = torch.cat([codes, signs], dim=1)
    return codes


def residual_of(targets: Tensor, codes: Tensor, decoder: Tensor) -> Tensor:
    """Targets - B D, block by block. (n, d) float32."""
    residual = torch.empty_like(targets)
    for rows, block in row_blocks(codes):
        residual[rows] = targets[rows] - (block.float() * 2 - 1) @ decoder
    return residual
