"""What fine-tuning gains by each part of the compressed table that trains: the measurement behind the default.

    python -m tests.benchmarks.trained_parts --data FOLDER --output FOLDER [--task stsb] [--ratio 25] [--seeds 0]

all-MiniLM-L6-v2, compressed once; the same codes with other `trainable`. Runs that are stored are not made again.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from tests.benchmarks.common import MODEL_DIR, print_table
from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.config import TRAINABLE_PARTS
from transformers_lighttoken.evaluation.evaluate import made_runs
from transformers_lighttoken.evaluation.fine_tuning.runs import TaskData
from transformers_lighttoken.evaluation.fine_tuning.settings import FineTuningSettings
from transformers_lighttoken.evaluation.fine_tuning.summary import task_score
from transformers_lighttoken.evaluation.fine_tuning.tasks import task_named
from transformers_lighttoken.evaluation.subject import open_subject

CHOICES = {
    "all": list(TRAINABLE_PARTS),
    "without row scales": ["decoder", "low_rank", "exact_rows"],
    "without decoder": ["low_rank", "row_scales", "exact_rows"],
    "exact rows": ["exact_rows"],
    "none": [],
}


def variant(compressed: Path, folder: Path, trainable: list[str]) -> Path:
    """The same checkpoint with other parts that train."""
    if not folder.is_dir():
        shutil.copytree(compressed, folder)
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"]["trainable"] = trainable
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--task", default="stsb")
    parser.add_argument("--ratio", type=float, default=25.0)
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--train-rows", type=int, default=2500)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--max-length", type=int, default=64)
    args = parser.parse_args()
    compressed = args.output / "compressed"
    if not compressed.is_dir():
        compress_checkpoint(MODEL_DIR, compressed, LightTokenConfig(compression_ratio=args.ratio))
    settings = FineTuningSettings(
        epochs=args.epochs, learning_rate=args.lr, max_length=args.max_length, train_rows=args.train_rows
    )
    data, rows = TaskData.load(task_named(args.task), args.data), []
    for name in args.choices:
        subject = open_subject(variant(compressed, args.output / name.replace(" ", "-"), CHOICES[name]))
        records = made_runs(subject, data, settings, args.seeds, args.output, lambda text: print(text, file=sys.stderr))
        score = task_score(records)
        loss = sum(record["training_loss"] for record in records) / len(records)
        parameters = records[0]["table_parameters_trained"]
        rows.append([name, parameters, 100 * score.value, 100 * (score.standard_error or 0), loss])
        print_table(["trains", "parameters", args.task, "standard error", "training loss"], rows)


if __name__ == "__main__":
    main()
