import pytest
import torch

from transformers_lighttoken.coding.mini_batches import mini_batches
from transformers_lighttoken.coding.reduction import CPU_BLOCK_ROWS
from transformers_lighttoken.coding.share import RowShare

CPU = torch.device("cpu")


def batches_of(share, rows, seed=0, passes=1):
    order = torch.Generator().manual_seed(seed)
    found = [list(mini_batches(rows, 1024, order, share, CPU)) for _ in range(passes)]
    held = share.places(rows, CPU)
    return [[[held[piece].tolist() for piece in batch] for batch in one] for one in found]


@pytest.mark.parametrize("rows", [1, 300, CPU_BLOCK_ROWS, CPU_BLOCK_ROWS + 1, 20_000])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_process_has_its_rows_of_the_same_mini_batches(rows, count):
    (whole,) = batches_of(RowShare(), rows)
    assert sorted(row for batch in whole for piece in batch for row in piece) == list(range(rows))
    assert max(sum(map(len, batch)) for batch in whole) <= 1024
    parts = [batches_of(RowShare(index, count), rows)[0] for index in range(count)]
    for number, batch in enumerate(whole):
        pieces = [piece for part in parts for piece in part[number]]
        assert sorted(pieces) == sorted(batch)  # the pieces themselves are the same, in their order of rows
    assert {len(part) for part in parts} == {len(whole)}


def test_processes_have_even_parts_of_a_mini_batch():
    for index in range(4):
        (batches,) = batches_of(RowShare(index, 4), 16 * CPU_BLOCK_ROWS)
        assert {len(batch) for batch in batches} == {1}


def test_passes_and_seeds_differ():
    first, second = batches_of(RowShare(), 9000, passes=2)
    assert first != second
    assert first != batches_of(RowShare(), 9000, seed=1)[0]
    assert first == batches_of(RowShare(), 9000)[0]
