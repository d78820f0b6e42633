"""Coding on a CUDA device; skipped where there is none."""

import pytest
import torch

from tests.integration.distributed_coding import metric, table, zipf
from transformers_lighttoken import LightTokenConfig, compress_table

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def error(weight: torch.Tensor, config: LightTokenConfig, device: str, **facts: object) -> float:
    decoded = compress_table(weight.to(device), config, **facts).decode_all().cpu()  # pyright: ignore
    return float((weight - decoded).square().sum() / weight.square().sum())


@pytest.mark.parametrize("solver", ["refined", "paper"])
def test_the_result_is_as_good_as_on_the_cpu(solver: str) -> None:
    weight = table(40_000, 32)  # more than one block of rows on either device
    config = LightTokenConfig(code_bits=40, rank=2, solver=solver)  # pyright: ignore
    assert error(weight, config, "cuda") == pytest.approx(error(weight, config, "cpu"), rel=0.02)


def test_tiers_and_metric_run_on_the_device() -> None:
    weight, facts = table(40_000, 32), {"frequencies": zipf(40_000), "exact_ids": [7, 1], "metric": metric(32)}
    config = LightTokenConfig(compression_ratio=10)
    assert error(weight, config, "cuda", **facts) == pytest.approx(error(weight, config, "cpu", **facts), rel=0.02)


def test_the_same_device_gives_the_same_bytes() -> None:
    weight = table(40_000, 32).cuda()
    digests = {compress_table(weight, LightTokenConfig(code_bits=40)).digest() for _ in range(2)}
    assert len(digests) == 1
