import threading

import pytest
import torch

from transformers_lighttoken import LightTokenConfig, compress_table
from transformers_lighttoken.coding.threads import for_each, one_thread_each

CPU = torch.device("cpu")


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_each_product_runs_on_one_thread_and_blocks_side_by_side():
    together = threading.Barrier(3, timeout=30)
    seen = []

    def work(number):
        together.wait()  # breaks unless three blocks are worked on at once
        seen.append((number, torch.get_num_threads()))

    @one_thread_each
    def compute():
        for_each(range(6), work, CPU)
        return torch.get_num_threads()

    assert compute() == 1
    assert sorted(seen) == [(number, 1) for number in range(6)]


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_a_block_comes_through():
    def work(number):
        raise ZeroDivisionError(number)

    with pytest.raises(ZeroDivisionError):
        one_thread_each(lambda: for_each(range(3), work, CPU))()


@pytest.mark.usefixtures("three_threads")
def test_stored_bytes_do_not_depend_on_the_number_of_threads():
    table = torch.randn(9000, 50, generator=torch.Generator().manual_seed(0))
    config = LightTokenConfig(compression_ratio=30)
    several = compress_table(table, config).digest()
    torch.set_num_threads(1)
    alone = compress_table(table, config).digest()
    torch.set_num_threads(3)
    assert several == alone
