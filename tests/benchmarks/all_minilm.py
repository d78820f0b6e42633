"""Fidelity of all-MiniLM-L6-v2's table at a ratio, and the time that compression takes beside faiss OPQ.

python -m tests.benchmarks.all_minilm [--ratio 25]
"""

import argparse

import faiss

from tests.benchmarks.common import dense_model, print_table, timed, tokenizer
from transformers_lighttoken import LightTokenConfig, compress_table
from transformers_lighttoken.evaluation.baselines import fit_baseline
from transformers_lighttoken.evaluation.fidelity import table_fidelity
from transformers_lighttoken.modeling.fitting import FittingContext, fit_table
from transformers_lighttoken.modeling.sites import find_sites
from transformers_lighttoken.modeling.tokens import exact_token_ids

METHODS = {
    "default": "default (tiers, metric)",
    "refined": "refined, equal coverage, plain metric",
    "warm": "the same, from the trained autoencoder",
    "paper": "paper mode (autoencoder alone)",
    "paper-rank-8": "paper mode, rank 8",
    "opq": "OPQ at equal bytes, float16 codebooks and rotation",
    "svd": "truncated SVD, float32",
}
BASELINES = {"opq": "opq_fp16", "svd": "svd_fp32"}


def bytes_of(table) -> int:
    """Bytes of all stored tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in table.tensors.values())


def opq(weight) -> None:
    """faiss OPQ 48x8: 20 iterations of training, then encoding."""
    rows = weight.numpy()
    rotation = faiss.OPQMatrix(rows.shape[1], 48)
    rotation.niter = 20
    rotation.train(rows)
    rotated = rotation.apply(rows)
    quantizer = faiss.ProductQuantizer(rows.shape[1], 48, 8)
    quantizer.train(rotated)
    quantizer.compute_codes(rotated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=25.0)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    ratio = args.ratio
    model, words = dense_model(), tokenizer()
    weight = model.get_input_embeddings().weight.detach()
    exact_ids = exact_token_ids(words, weight.shape[0])
    site = find_sites(model)[0]

    def automatic():
        context = FittingContext(LightTokenConfig(compression_ratio=ratio), lambda: model, words)
        return fit_table(weight, site, context)[0]

    def equal(**settings):
        config = LightTokenConfig(compression_ratio=ratio, tiers="equal", metric="plain", **settings)
        return compress_table(weight, config, exact_ids=exact_ids)

    def baseline(name):
        return lambda: fit_baseline(BASELINES[name], weight, ratio)

    calls = {
        "default": automatic,
        "refined": equal,
        "warm": lambda: equal(warm_start="autoencoder"),
        "paper": lambda: equal(solver="paper"),
        "paper-rank-8": lambda: equal(solver="paper", rank=8),
        **{name: baseline(name) for name in BASELINES},
    }
    _, opq_seconds = timed(lambda: opq(weight))
    rows = []
    for name in args.methods:
        table, seconds = timed(calls[name])
        is_baseline = name in BASELINES
        decoded, stored = (table.table, table.stored_bytes) if is_baseline else (table.decode_all(), bytes_of(table))
        found = table_fidelity(weight, decoded)
        rows.append([METHODS[name], stored, 4 * weight.numel() / stored, found.relative_error, found.cosine_mean])
        rows[-1] += [found.cosine_p01, seconds, seconds / opq_seconds]
    header = ["method", "stored bytes", "ratio", "relative error", "cosine mean", "cosine p01", "seconds", "of OPQ's"]
    print(f"faiss OPQ 48x8, 20 iterations, training and encoding: {opq_seconds:.1f} s")
    print_table(header, rows)


if __name__ == "__main__":
    main()
