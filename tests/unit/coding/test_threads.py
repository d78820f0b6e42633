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
def test_no_further_block_is_begun_after_an_error():
    begun = []

    def work(number):
        begun.append(number)
        raise ZeroDivisionError(number)

    with pytest.raises(ZeroDivisionError):
        one_thread_each(lambda: for_each(range(100), work, CPU))()
    assert len(begun) <= 3


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_blocks_are_worked_on_in_the_mode_of_the_caller(mode):
    table, config = torch.randn(5000, 40, generator=torch.Generator().manual_seed(0)), LightTokenConfig(20.0)
    together = threading.Barrier(3, timeout=30)
    modes = []

    def work(_number):
        together.wait()
        modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

    with mode():
        one_thread_each(lambda: for_each(range(3), work, CPU))()
        expected = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        counts = 1 / (torch.arange(5000) + 1.0)
        within = compress_table(table, config, frequencies=counts).digest()
    assert modes == [expected] * 3
    assert within == compress_table(table, config, frequencies=counts).digest()


@pytest.mark.usefixtures("three_threads")
def test_stored_bytes_do_not_depend_on_the_number_of_threads():
    table = torch.randn(9000, 50, generator=torch.Generator().manual_seed(0))
    config = LightTokenConfig(compression_ratio=30)
    several = compress_table(table, config).digest()
    torch.set_num_threads(1)
    alone = compress_table(table, config).digest()
    torch.set_num_threads(3)
    assert several == alone
