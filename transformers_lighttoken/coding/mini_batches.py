"""Mini-batches of rows that are the same whatever the number of processes. Beyond the paper.

A mini-batch is made of pieces, and the rows of a piece all lie in one block (see `share`), so that one process holds
them. What is computed from a piece alone is then the same wherever its block lies.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .reduction import block_rows
from .share import RowShare

_PIECE_ROWS = 256


def mini_batches(
    rows: int, batch_rows: int, order: torch.Generator, share: RowShare, device: torch.device
) -> Iterator[list[Tensor]]:
    """One pass over the rows of all processes, in random order.

    The pieces of a mini-batch lie in blocks that follow each other, so that every process has its part in most of them.

    Args:
        rows: of all processes.
        batch_rows: of a mini-batch; a multiple of 256, or it is rounded down to one, but at least 256.
        order: of the rows, in the same state on every process.
        share: which rows this process holds.
        device: of the rows.

    Yields:
        This process's rows of each mini-batch, piece by piece, (n,) int64; perhaps none.
    """
    blocks = torch.arange(rows).split(block_rows(device))
    pieces = [torch.randperm(len(block), generator=order).split(_PIECE_ROWS) for block in blocks]
    dealt = []
    for number in range(max(map(len, pieces))):
        first = int(torch.randint(len(blocks), (1,), generator=order))
        turn = [*range(first, len(blocks)), *range(first)]
        dealt += [(block, pieces[block][number]) for block in turn if number < len(pieces[block])]
    size = max(1, batch_rows // _PIECE_ROWS)
    batches = [dealt[start : start + size] for start in range(0, len(dealt), size)]
    for batch in torch.randperm(len(batches), generator=order).tolist():
        mine = [(block // share.count, piece) for block, piece in batches[batch] if block % share.count == share.index]
        yield [place * block_rows(device) + piece for place, piece in mine]
