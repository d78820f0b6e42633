"""The rate-distortion picture of a table: ours, every baseline and the Gaussian limit, at equal stored bytes.

    python -m tests.benchmarks.rate_distortion [--table all-minilm] [--data FOLDER] [--output FOLDER]

Writes TABLE.json, TABLE.md and TABLE.png. Every point is kept in the JSON file as soon as it is known; a further run
makes only those that are missing, and `--methods default equal --force` makes ours again (with the same `--data`).

With `--data` (a folder with `stsb/validation.parquet` or `wikitext2/validation.txt`) each table is put into its model,
nothing else is changed, and the model is measured: Spearman correlation on STS-B or perplexity, over the dense model's.

A method is left out, with the reason, where it cannot reach a ratio, and where it would take longer than `--limit`
seconds of processor time by its time at the next higher ratio: time grows at least with the bits per row.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.rate_distortion_picture import draw
from tests.benchmarks.rate_distortion_results import Point, Results, gaussian_limit, markdown
from tests.benchmarks.real_tables import TABLE_NAMES, RealTable, load_table
from transformers_lighttoken import LightTokenConfig, compress_model, compress_table, compression_report
from transformers_lighttoken.evaluation.baselines import BASELINE_NAMES, fit_baseline
from transformers_lighttoken.evaluation.data import load_rows, load_text
from transformers_lighttoken.evaluation.fidelity import table_fidelity
from transformers_lighttoken.evaluation.zero_shot import perplexity, sts_spearman

RATIOS = (5.0, 10.0, 25.0, 50.0, 103.0, 200.0)
OURS: dict[str, dict[str, Any]] = {"default": {}, "equal": {"tiers": "equal", "metric": "plain"}}
_TITLES = {
    "default": "ours",
    "equal": "ours, plain and equal",
    "int8": "int8",
    "int4": "int4",
    "svd": "SVD",
    "pq": "PQ",
    "opq": "OPQ",
    "residual_quantization": "residual quant.",
    "local_search_quantization": "local search quant.",
    "direction_autoencoder": "direction AE",
}
SHOWN = ("default", "equal", "opq_fp16", "pq_fp16", "residual_quantization_fp16", "local_search_quantization_fp16")
SHOWN += ("svd_fp16", "svd_fp32", "direction_autoencoder_fp16", "int4", "int8")
"""Methods by default. Quantizers store codebooks in fp16, which beats fp32 at equal bytes."""
_PERPLEXITY_TOKENS = 4096
_LIMIT_POINTS = 25


def title_of(method: str) -> str:
    """A method's name for people."""
    name, _, precision = method.rpartition("_")
    if precision in ("fp16", "fp32"):
        return _TITLES[name] + (f", {precision}" if name == "svd" or precision == "fp32" else "")
    return _TITLES[method]


def task_of(table: RealTable, data: Path | None) -> tuple[str, Callable[[], float]] | None:
    """The zero-shot task of a table's model: its name, and a call that measures the model as it is."""
    model, tokenizer = table.model, table.tokenizer
    if data is None or model is None:
        return None
    if model.can_generate():
        text = load_text(data)
        measure = lambda: perplexity(model, tokenizer, text, max_tokens=_PERPLEXITY_TOKENS).perplexity  # noqa: E731
        return "wikitext-2 perplexity over dense", measure
    rows = load_rows(data, "stsb", "validation")
    return "STS-B Spearman over dense", lambda: sts_spearman(model, tokenizer, rows).spearman


def measure_with(table: RealTable, decoded: Tensor, measure: Callable[[], float]) -> float:
    """Measures the model with another table in the place of its own."""
    weight = table.model.get_input_embeddings().weight
    original = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.copy_(decoded)
        return measure()
    finally:
        with torch.no_grad():
            weight.copy_(original)


def fit(table: RealTable, method: str, ratio: float, calibration: str | None) -> tuple[Tensor, int, dict[str, Any]]:
    """The decoded table, the bytes that it was decoded from, and the sizes that were chosen.

    Raises:
        ValueError: if the method cannot reach the ratio.
    """
    if method not in OURS:
        result = fit_baseline(method, table.weight, ratio)
        return result.table, result.stored_bytes, result.parameters
    config = LightTokenConfig(compression_ratio=ratio, **OURS[method])
    if table.model is None:
        coded = compress_table(table.weight, config)
        stored = sum(tensor.numel() * tensor.element_size() for tensor in coded.tensors.values())
        return coded.decode_all(), stored, sizes(coded.plan)
    model = compress_model(copy.deepcopy(table.model), config, table.tokenizer, calibration=calibration)
    plan = model.get_input_embeddings().plan
    stored = compression_report(model).stored_bytes
    return model.dequantize().get_input_embeddings().weight.detach(), stored, sizes(plan)


def sizes(plan: Any) -> dict[str, Any]:
    """Bits of the base code, coverage and bits of the tiers, exact rows."""
    tiers = [[tier.coverage, tier.code_bits] for tier in plan.tiers]
    return {"code_bits": plan.code_bits, "tiers": tiers, "num_exact": plan.num_exact}


def make_point(
    table: RealTable,
    method: str,
    ratio: float,
    calibration: str | None,
    measure: Callable[[], float] | None,
    dense: float | None,
) -> Point:
    """Fits a method and measures the result."""
    if method == "default" and table.model is None:
        return Point(method, ratio, left_out="nothing is known of the table but its rows: the same as plain and equal")
    try:
        start = time.process_time()
        decoded, stored, parameters = fit(table, method, ratio, calibration)
        seconds = time.process_time() - start
    except ValueError as error:
        return Point(method, ratio, left_out=str(error))
    found = table_fidelity(table.weight, decoded)
    score = measure_with(table, decoded, measure) / dense if measure and dense else None
    reached = 4 * table.weight.numel() / stored
    figures = (found.relative_error, found.cosine_mean, found.cosine_p01, score)
    return Point(method, ratio, stored, reached, *figures, round(seconds, 1), parameters)


def too_slow(results: Results, method: str, ratio: float, limit: float) -> Point | None:
    """A point that is left out because of the time that the next higher ratio took."""
    above = [point for point in results.curve(method) if point.asked > ratio]
    if not above:
        waiting = [point for point in results.points if point.method == method and "--limit" in (point.left_out or "")]
        return replace(waiting[0], asked=ratio) if any(point.asked > ratio for point in waiting) else None
    nearest = min(above, key=lambda point: point.asked)
    expected = nearest.seconds * nearest.asked / ratio
    if expected <= limit:
        return None
    reason = f"expected to take over {expected:.0f} s, more than --limit {limit:g}: {nearest.seconds:.0f} s at "
    return Point(method, ratio, left_out=reason + f"{nearest.asked:g}")


def run(args: argparse.Namespace, table: RealTable, results: Results, path: Path) -> None:
    """Makes the points that are missing, the smallest tables first."""
    task = task_of(table, args.data)
    calibration = args.calibration.read_text(encoding="utf-8") if args.calibration else None
    if task and results.task is None:
        results.task, results.dense_score = task[0], task[1]()
    for ratio in sorted(args.ratios, reverse=True):
        for method in args.methods:
            known = results.find(method, ratio)
            if known and not known.left_out and not args.force and (known.task is not None or not task):
                continue
            point = too_slow(results, method, ratio, args.limit) or make_point(
                table, method, ratio, calibration, task[1] if task else None, results.dense_score
            )
            results.put(point)
            results.write(path)
            told = point.left_out or f"{point.stored_bytes} bytes, {point.relative_error:.4f}, task {point.task}"
            print(f"{method} at {ratio:g}: {told} ({point.seconds:.0f} s)", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLE_NAMES, default="all-minilm")
    parser.add_argument("--methods", nargs="*", choices=[*OURS, *BASELINE_NAMES], default=list(SHOWN), metavar="METHOD")
    parser.add_argument("--ratios", nargs="*", type=float, default=list(RATIOS))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--data", type=Path, help="folder of evaluation data; no task is measured when left out")
    parser.add_argument("--calibration", type=Path, help="text for our metric; the model makes it up when left out")
    parser.add_argument("--limit", type=float, default=900.0, help="most seconds expected of a point")
    parser.add_argument("--force", action="store_true", help="make the points again that are known")
    args = parser.parse_args()
    table = load_table(args.table)
    path = args.output / f"{args.table}.json"
    results = (
        Results.read(path) if path.exists() else Results(table.title, (table.weight.shape[0], table.weight.shape[1]))
    )
    run(args, table, results, path)
    between = np.geomspace(results.asked[0], results.asked[-1], _LIMIT_POINTS).round(2).tolist()
    results.limit = gaussian_limit(table.weight, sorted({*results.asked, *between}))
    results.write(path)
    methods = {name: title_of(name) for name in dict.fromkeys([*SHOWN, *(point.method for point in results.points)])}
    path.with_suffix(".md").write_text(markdown(results, methods), encoding="utf-8")
    draw(results, methods, path.with_suffix(".png"))
    print(markdown(results, methods))


if __name__ == "__main__":
    main()
