import subprocess
import sys

import pytest
import torch

from tests.unit.evaluation.baselines.tables import relative_error, small_table
from transformers_lighttoken.evaluation.baselines import BASELINE_NAMES, fit_baseline

NEED_FAISS = [name for name in BASELINE_NAMES if "quantization" in name or "pq" in name]


@pytest.fixture(scope="module")
def table():
    return small_table(1000, 24)


def test_the_names():
    methods = ["svd", "direction_autoencoder", "pq", "opq", "residual_quantization", "local_search_quantization"]
    assert set(BASELINE_NAMES) == {"int8", "int4"} | {f"{name}_{kind}" for name in methods for kind in ("fp32", "fp16")}


@pytest.mark.parametrize(("ratio", "error"), [(4, 0.5), (10, 0.8)])
@pytest.mark.parametrize("name", [name for name in BASELINE_NAMES if not name.startswith("int")])
def test_the_bytes_keep_the_ratio_and_use_it(table, name, ratio, error):
    result = fit_baseline(name, table, ratio)
    assert result.name == name
    assert result.table.shape == table.shape
    assert result.table.dtype == torch.float32
    assert result.ratio == 4 * 1000 * 24 / result.stored_bytes
    assert ratio <= result.ratio < 1.6 * ratio
    assert relative_error(table, result.table) < error


@pytest.mark.parametrize(("name", "ratio", "error"), [("int8", 96 / 28, 1e-4), ("int4", 96 / 16, 0.01)])
def test_integers_have_one_size(table, name, ratio, error):
    result = fit_baseline(name, table, 2)
    assert result.ratio == ratio
    assert relative_error(table, result.table) < error


@pytest.mark.parametrize("name", BASELINE_NAMES)
def test_an_impossible_ratio_names_the_nearest(table, name):
    with pytest.raises(ValueError, match=rf"ratio 100000 leaves 0 bytes, but {name} needs at least") as caught:
        fit_baseline(name, table, 1e5)
    nearest = float(str(caught.value).split("ask for at most ")[1].rstrip("."))
    assert fit_baseline(name, table, nearest).ratio >= nearest
    with pytest.raises(ValueError, match="ask for at most"):
        fit_baseline(name, table, nearest + 0.02)


def test_the_message_for_int8(table):
    with pytest.raises(ValueError, match="leaves 3840 bytes") as caught:
        fit_baseline("int8", table, 25)
    assert str(caught.value) == (
        "ratio 25 leaves 3840 bytes, but int8 needs at least 28000 for this table of 1000 x 24: ask for at most 3.42."
    )


@pytest.mark.parametrize("name", ["int8", "svd_fp32", "direction_autoencoder_fp32", "opq_fp16"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_worked_on_in_float32(table, name, dtype):
    weight = table.to(dtype)
    result = fit_baseline(name, weight, 3.4 if name == "int8" else 8)
    assert result.table.dtype == torch.float32
    assert torch.equal(result.table, fit_baseline(name, weight.float(), 3.4 if name == "int8" else 8).table)
    assert weight.dtype == dtype


@pytest.mark.parametrize("name", ["int4", "svd_fp16", "opq_fp16", "residual_quantization_fp32"])
def test_parameters_and_views_are_taken_and_left_as_they_are(table, name):
    weight = torch.nn.Parameter(table.t().clone()).t()
    result = fit_baseline(name, weight, 4)
    assert not result.table.requires_grad
    assert torch.equal(result.table, fit_baseline(name, table, 4).table)
    assert torch.equal(weight, table)


def test_better_methods_are_better(table):
    """Codes beat plain factors, and half precision beats full."""
    errors = {name: relative_error(table, fit_baseline(name, table, 6).table) for name in BASELINE_NAMES[2:]}
    for method in ("pq", "opq", "residual_quantization", "local_search_quantization"):
        assert errors[f"{method}_fp16"] < errors["svd_fp16"] < errors["svd_fp32"]
    assert errors["direction_autoencoder_fp16"] < errors["direction_autoencoder_fp32"]


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (torch.zeros(8, 4, dtype=torch.int64), TypeError, "weight must be a floating-point tensor, got torch.int64"),
        (torch.zeros(8), ValueError, r"weight must be a non-empty matrix"),
        (torch.full((8, 4), float("nan")), ValueError, "NaN or infinite"),
        (torch.zeros(1, 4), ValueError, r"at least 2 rows and 2 columns, got shape \(1, 4\)"),
        (torch.zeros(4, 1), ValueError, r"at least 2 rows and 2 columns, got shape \(4, 1\)"),
    ],
)
def test_what_is_no_table_is_refused(weight, error, message):
    with pytest.raises(error, match=message):
        fit_baseline("svd_fp32", weight, 2)


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf")])
def test_what_is_no_ratio_is_refused(table, ratio):
    with pytest.raises(ValueError, match="ratio must be a positive number"):
        fit_baseline("svd_fp32", table, ratio)


def test_an_unknown_name_is_refused(table):
    with pytest.raises(ValueError, match=r"name must be one of int8, int4, svd_fp32, .*, got 'svd'"):
        fit_baseline("svd", table, 2)


@pytest.mark.parametrize("name", NEED_FAISS)
def test_without_faiss_the_extra_is_named(table, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"quantization needs faiss, .*pip install 'transformers-lighttoken\[eval\]'"):
        fit_baseline(name, table, 4)


def test_faiss_is_imported_only_when_it_is_needed():
    code = (
        "import sys, torch\n"
        "from transformers_lighttoken.evaluation.baselines import fit_baseline\n"
        "fit_baseline('svd_fp16', torch.randn(50, 8), 2)\n"
        "fit_baseline('int8', torch.randn(50, 8), 2)\n"
        "sys.exit('faiss' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
