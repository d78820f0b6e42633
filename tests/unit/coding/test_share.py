import pytest
import torch

from transformers_lighttoken.coding.packing import pack_bits
from transformers_lighttoken.coding.reduction import CPU_BLOCK_ROWS
from transformers_lighttoken.coding.share import ALL_ROWS, RowShare

CPU = torch.device("cpu")


@pytest.mark.parametrize("rows", [0, 1, CPU_BLOCK_ROWS, CPU_BLOCK_ROWS + 1, 20_000])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_row_belongs_to_one_process(rows, count):
    shares = [RowShare(index, count) for index in range(count)]
    places = [share.places(rows, CPU) for share in shares]
    assert torch.equal(torch.cat(places).sort().values, torch.arange(rows))
    for share, held in zip(shares, places, strict=True):
        assert torch.equal(held, held.sort().values)
        assert share.num_rows(rows, CPU) == len(held)
        for number, block in enumerate(held.split(CPU_BLOCK_ROWS)):
            if len(block):
                assert int(block[0]) == CPU_BLOCK_ROWS * share.block_number(number)
    assert max(map(len, places)) - min(map(len, places)) <= CPU_BLOCK_ROWS


@pytest.mark.parametrize("rows", [1, CPU_BLOCK_ROWS, 13_000])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_merging_puts_rows_back_in_order(rows, count):
    values = torch.randn(rows, 3)
    bits = torch.rand(rows, 13) < 0.5
    places = [RowShare(index, count).places(rows, CPU) for index in range(count)]
    merging = RowShare(0, count, gather=lambda _: [values[held] for held in places])
    assert torch.equal(merging.merge(values[places[0]]), values)
    for index, held in enumerate(places):
        assert torch.equal(RowShare(index, count).take(values), values[held])
    packed = RowShare(0, count, gather=lambda _: [pack_bits(bits[held]) for held in places])
    assert torch.equal(packed.merge(pack_bits(bits[places[0]]), 13), pack_bits(bits))


def test_a_single_process_holds_all_rows():
    values = torch.randn(9000, 2)
    assert ALL_ROWS.merge(values) is values
    assert ALL_ROWS.take(values) is values
    assert ALL_ROWS.largest(3.5) == 3.5
