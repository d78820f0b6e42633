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
    ratio = parser.parse_args().ratio
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

    methods = {
        "default (tiers, metric)": automatic,
        "refined, equal coverage, plain metric": equal,
        "the same, from the trained autoencoder": lambda: equal(warm_start="autoencoder"),
        "paper mode (autoencoder alone)": lambda: equal(solver="paper"),
        "paper mode, rank 8": lambda: equal(solver="paper", rank=8),
    }
    _, opq_seconds = timed(lambda: opq(weight))
    rows = []
    for name, method in methods.items():
        table, seconds = timed(method)
        found = table_fidelity(weight, table.decode_all())
        stored = sum(tensor.numel() * tensor.element_size() for tensor in table.tensors.values())
        dense = 4 * weight.numel()
        rows.append([name, stored, dense / stored, found.relative_error, found.cosine_mean, found.cosine_p01])
        rows[-1] += [seconds, seconds / opq_seconds]
    svd, seconds = timed(lambda: fit_baseline("svd_fp32", weight, ratio))
    found = table_fidelity(weight, svd.table)
    rows.append(["truncated SVD, float32", svd.stored_bytes, 4 * weight.numel() / svd.stored_bytes])
    rows[-1] += [found.relative_error, found.cosine_mean, found.cosine_p01, seconds, seconds / opq_seconds]
    header = ["method", "stored bytes", "ratio", "relative error", "cosine mean", "cosine p01", "seconds", "of OPQ's"]
    print(f"faiss OPQ 48x8, 20 iterations, training and encoding: {opq_seconds:.1f} s")
    print_table(header, rows)


if __name__ == "__main__":
    main()
