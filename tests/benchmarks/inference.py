"""Speed and memory of a compressed model beside the dense one, and the bytes of both on disk.

python -m tests.benchmarks.inference
"""

import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModel

from tests.benchmarks.common import (
    MODEL_DIR,
    dense_model,
    interleaved_ratio,
    peak_memory,
    print_table,
    timed,
    tokenizer,
)
from transformers_lighttoken import LightTokenConfig, compression_report
from transformers_lighttoken.checkpoint.compress import compress_checkpoint

BATCH, LENGTH, ROUNDS = 8, 128, 21
SENTENCES = [
    "The quick brown fox jumps over the lazy dog while the committee debates the budget of the coming year.",
    "Researchers measured how quickly small language models answer questions about geography and history.",
    "After a long winter, the harbour town opened its market again and the fishermen sold cod and mussels.",
    "Electric trains run every twelve minutes between the airport and the central station on weekdays.",
]


def tensor_bytes(folder: str | Path) -> int:
    """Bytes of all tensors in a checkpoint's safetensors files."""
    total = 0
    for path in Path(folder).glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(tensor.numel() * tensor.element_size() for tensor in map(file.get_tensor, file.keys()))
    return total


def text_batch():
    """A batch of ordinary sentences, BATCH x LENGTH."""
    texts = [" ".join(SENTENCES[(row + shift) % len(SENTENCES)] for shift in range(12)) for row in range(BATCH)]
    return tokenizer()(texts, truncation=True, max_length=LENGTH, padding="max_length", return_tensors="pt")


def random_batch(vocab_size: int):
    """A batch of uniformly random ids: as many distinct rows as can be."""
    ids = torch.randint(1000, vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def memory(folder: Path, dense_folder: Path) -> list[list[object]]:
    """Peak bytes above the level after the imports: loading alone, where dense weights stay mapped, and using."""
    imports = "import torch, transformers_lighttoken\nfrom transformers import AutoModel"
    load = "model = AutoModel.from_pretrained({!r})"
    use = load + "\nwith torch.inference_mode(): model(torch.arange(1000, 30000).view(-1, 500)[:, :16])"
    bodies = {"loading": load, "loading, then a batch": use}
    return [
        [name, *(peak_memory(imports, body.format(str(path))) for path in (folder, dense_folder))]
        for name, body in bodies.items()
    ]


def main() -> None:
    torch.manual_seed(0)
    dense = dense_model()
    with tempfile.TemporaryDirectory() as scratch:
        folder, dense_folder = Path(scratch) / "compressed", Path(scratch) / "dense"
        report = compress_checkpoint(MODEL_DIR, folder, LightTokenConfig(compression_ratio=25.0))
        dense.save_pretrained(dense_folder)
        compressed = AutoModel.from_pretrained(folder).eval()
        rows = []
        with torch.inference_mode():
            for name, batch in {"text": text_batch(), "random ids": random_batch(30522)}.items():
                ratio, ours, theirs = interleaved_ratio(lambda b=batch: compressed(**b), lambda b=batch: dense(**b))
                distinct = int(batch["input_ids"].unique().numel())
                rows.append([f"{BATCH} x {LENGTH}, {name}", distinct, ours * 1e3, theirs * 1e3, ratio])
        print(f"torch threads: {torch.get_num_threads()}")
        print_table(["forward", "distinct ids", "compressed ms", "dense ms", "median of ratios"], rows)
        print_table(["peak memory", "compressed", "dense"], memory(folder, dense_folder))
        compressed.save_pretrained(Path(scratch) / "saved")
        ours, theirs = tensor_bytes(Path(scratch) / "saved"), tensor_bytes(dense_folder)
        said = compression_report(folder).to_dict()
        saved = said["dense_bytes_float32"] - said["stored_bytes"]
        print_table(
            ["tensor bytes", "dense", "compressed", "difference", "the report's"],
            [["model.safetensors", theirs, ours, theirs - ours, saved]],
        )
        if theirs - ours != saved:
            raise SystemExit("the report and the files disagree")
        print(report)
        print(f"loading took {timed(lambda: AutoModel.from_pretrained(folder))[1]:.2f} s")


if __name__ == "__main__":
    main()
