"""Tables that are cut smaller beside tables compressed anew: relative errors on all-MiniLM-L6-v2.

python -m tests.benchmarks.recut [--from 25] [--ratios 35 50 103]
"""

import argparse

import torch
from torch import Tensor

from tests.benchmarks.common import print_table
from tests.benchmarks.real_tables import RealTable, load_table
from transformers_lighttoken import LightTokenConfig, compress_table
from transformers_lighttoken.evaluation.fidelity import table_fidelity
from transformers_lighttoken.modeling.fitting import sites_to_compress
from transformers_lighttoken.modeling.measure import measure_table
from transformers_lighttoken.modeling.tokens import exact_token_ids

EQUAL = {"tiers": "equal", "metric": "plain"}


def measured(table: RealTable) -> dict[str, Tensor | list[int] | None]:
    """What `lighttoken compress` knows of the model."""
    config, rows = LightTokenConfig(), len(table.weight)
    site = sites_to_compress(table.model, config)[0]
    found = measure_table(lambda: table.model, site, rows, config, table.tokenizer)
    exact = exact_token_ids(table.tokenizer, rows)
    return {"frequencies": found.frequencies, "metric": found.metric, "exact_ids": exact}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=float, default=25.0, help="ratio of the table that is cut")
    parser.add_argument("--ratios", type=float, nargs="*", default=[35.0, 50.0, 103.0])
    args = parser.parse_args()
    table = load_table("all-minilm")
    lines: list[list[object]] = []
    for name, settings, known in (("default", {}, measured(table)), ("equal coverage, plain metric", EQUAL, {})):

        def error(weight: Tensor, ratio: float, nested_in=None, settings=settings, known=known):
            config = LightTokenConfig(compression_ratio=ratio, **settings)
            coded = compress_table(weight, config, nested_in=nested_in, **known)
            return coded, table_fidelity(table.weight, coded.decode_all()).relative_error

        larger, at_first = error(table.weight, args.source)
        dense: Tensor = larger.decode_all()
        for ratio in args.ratios:
            cut, anew = error(dense, ratio, larger)[1], error(table.weight, ratio)[1]
            lines.append([name, args.source, at_first, ratio, cut, anew, cut / anew])
    print_table(["table", "from", "error", "ratio", "cut", "compressed anew", "quotient"], lines)
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
