"""Time and peak memory of a training step of compressed models beside dense ones: forward, backward, AdamW.

    python -m tests.benchmarks.training_step [--pairs 21] [--ratio 25] [--no-tied]

Steps are interleaved; the figure is the median of their ratios. Input-only: all-MiniLM-L6-v2 with a regression head.
Tied: its masked language model, whose head is random, since speed does not ask for a trained one.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from tests.benchmarks.common import MODEL_DIR, interleaved_ratio, peak_memory, print_table
from tests.benchmarks.inference import BATCH, LENGTH, random_batch, text_batch
from transformers_lighttoken import LightTokenConfig, compress_model

_STEPS = """
import torch, transformers, transformers_lighttoken
def steps(folder, kind, count=3):
    model = getattr(transformers, kind).from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    noise = torch.Generator().manual_seed(0)
    for _ in range(count):
        ids = torch.randint(1000, 30522, ({batch}, {length}), generator=noise)
        labels = ids if "MaskedLM" in kind else torch.zeros(len(ids))
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
"""


def stepper(model, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> Callable[[], None]:
    """One optimizer step on the same batch, as Trainer does it."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--ratio", type=float, default=25.0)
    parser.add_argument("--no-tied", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    kinds = {"input only": AutoModelForSequenceClassification, "tied": AutoModelForMaskedLM}
    rows, peaks = [], []
    for kind, auto_class in list(kinds.items())[: 1 if args.no_tied else 2]:
        options = {"num_labels": 1} if kind == "input only" else {}
        dense = auto_class.from_pretrained(MODEL_DIR, dtype=torch.float32, **options)
        config = LightTokenConfig(compression_ratio=args.ratio, metric="plain")
        compressed = compress_model(copy.deepcopy(dense), config)
        with tempfile.TemporaryDirectory() as scratch:
            dense.save_pretrained(Path(scratch) / "dense")
            compressed.save_pretrained(Path(scratch) / "compressed")
            imports = _STEPS.format(batch=BATCH, length=LENGTH)
            found = [
                peak_memory(imports, f"steps({str(Path(scratch) / name)!r}, {auto_class.__name__!r})")
                for name in ("compressed", "dense")
            ]
        peaks.append([kind, *(peak / 2**20 for peak in found), found[0] / found[1]])
        for name, batch in {"text": dict(text_batch()), "random ids": random_batch(30522)}.items():
            labels = torch.zeros(BATCH) if kind == "input only" else batch["input_ids"]
            steps = [stepper(model, batch, labels) for model in (compressed, dense)]
            ratio, ours, theirs = interleaved_ratio(*steps, pairs=args.pairs)
            rows.append([f"{kind}, {name}", ours * 1e3, theirs * 1e3, ratio])
    print(f"torch threads: {torch.get_num_threads()}; {BATCH} x {LENGTH} tokens a step")
    print_table(["training step", "compressed ms", "dense ms", "median of ratios"], rows)
    print_table(["peak memory above the imports", "compressed MiB", "dense MiB", "ratio"], peaks)


if __name__ == "__main__":
    main()
