"""Closed-form residual binary autoencoder stages, the start of refinement. Beyond the paper.

Each stage encodes the residual of those before it linearly, by its principal directions, takes the signs, and fits the
joint decoder of all stages by least squares. It costs a Gram matrix and a solve per stage instead of a training.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .low_rank import principal_directions
from .packing import signs_of
from .reduction import RowSource, gram_of_blocks, row_blocks
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
    given = 0 if codes is None else codes.shape[1]
    extended = torch.empty(targets.shape[0], code_bits, dtype=torch.bool, device=targets.device)
    if codes is not None:
        extended[:, :given] = codes
    while given < code_bits:
        step = min(_BITS_PER_STEP, code_bits - given, targets.shape[1])
        decoder = refiner.refit(extended[:, :given]) if given else targets[:0]
        blocks = _residual_blocks(targets, extended[:, :given], decoder)
        gram = gram_of_blocks(blocks, targets.shape[1], targets.device, refiner.share.reduce)
        directions = principal_directions(gram, step)  # (step, d)
        for rows, residual in _residual_blocks(targets, extended[:, :given], decoder):
            extended[rows, given : given + step] = residual @ directions.t() >= 0
        given += step
    return extended


def _residual_blocks(targets: RowSource, codes: Tensor, decoder: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for rows, block in row_blocks(codes):
        yield rows, (signs_of(block) @ decoder).neg_().add_(targets[rows])


def residual_of(targets: Tensor, codes: Tensor, decoder: Tensor) -> Tensor:
    """Targets - B D, block by block. (n, d) float32."""
    residual = torch.empty_like(targets)
    for rows, block in _residual_blocks(targets, codes, decoder):
        residual[rows] = block
    return residual
