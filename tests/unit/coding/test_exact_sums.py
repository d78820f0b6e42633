import pytest
import torch

from tests.thread_processes import in_processes
from transformers_lighttoken.coding.exact_sums import ExactSums


def pieces_of_a_step(magnitude, step):
    generator = torch.Generator().manual_seed(step)
    factor = 0.5**step * magnitude

    def values(shape):  # of such different magnitudes that float64 sums depend on the order
        return (
            torch.randn(shape, generator=generator) * torch.exp(-25 * torch.rand(shape, generator=generator)) * factor
        )

    return [[values((30, 7)), values(())] for _ in range(6)]


def sums_of(groups, steps):
    """What each of some processes gets, here threads, that hold the pieces of its group."""

    def work(share):
        sums = ExactSums(share)
        return [sums([pieces[number] for number in groups[share.index]], pieces[0]) for pieces in steps]

    return in_processes(len(groups), work)


@pytest.mark.parametrize("magnitude", [1e-12, 1.0, 1e6])
def test_neither_grouping_nor_order_matters(magnitude):
    steps = [pieces_of_a_step(magnitude, step) for step in range(5)]
    (alone,) = sums_of([range(6)], steps)
    for groups in ([[5, 0, 3], [1, 4, 2]], [[2], [], [4, 1, 0, 3, 5]]):
        for results in sums_of(groups, steps):
            for mine, expected in zip(results, alone, strict=True):
                assert all(torch.equal(one, other) for one, other in zip(mine, expected, strict=True))
    largest = [max(float(piece[number].abs().max()) for piece in steps[0]) for number in (0, 1)]
    for pieces, sums in zip(steps, alone, strict=True):
        assert [total.dtype for total in sums] == [torch.float64] * 2
        for number, total in enumerate(sums):
            exact = torch.stack([piece[number].double() for piece in pieces]).sum(dim=0)
            torch.testing.assert_close(total, exact, rtol=0, atol=1e-9 * largest[number])
