"""Which text and which blend make the best metric: compression under each, measured zero-shot on rows kept apart.

    python -m tests.benchmarks.metric_choice --data FOLDER [--table all-minilm] [--ratio 50]
    python -m tests.benchmarks.metric_choice --data FOLDER --table smollm2 --ratio 25 [--untied]  # hours on two cores

all-minilm is measured by Spearman correlation on rows of STS-B's training split, smollm2 by the divergence of its
predictions from the dense model's on contexts of SQuAD's validation split, its head left dense with `--untied`; the
metric is measured on contexts of SQuAD's training split ("text"), on what the model writes ("samples"), on both, or on
draws from the tokenizer's frequencies ("frequencies"). Nothing here sees the rows that the README's figures are made
on. A blend is shares of identity, head metric and input metric; see `modeling.measure`, whose defaults are marked.
Token frequencies come from the text or samples too, as they do when a model is compressed.

What was tried beside the grid below and brought no gain, so that nobody tries it twice: a low-rank part of rank 1 to 8,
row weights in the refits of decoders, longer annealing of the code refinement, p |e|^2 and sqrt(p) in the place of the
token probability p as row weights, and other blends. SmolLM2, tied, 25x, perplexity over the dense model's on SQuAD
contexts: 1.39 to 1.44 over the blends with a metric from text, 1.66 with one from the model's own samples. The text
matters more than the blend.

Which text knows what is met matters most. SmolLM2, tied, 25x, on passages spread over wikitext-2 and over SQuAD's
validation contexts: measured on its own samples alone 1.49 and 1.80, on these and SQuAD's training contexts in equal
shares 1.43 and 1.58, on other passages of wikitext-2 1.24 and 1.63. Counts of the text in the place of equal shares
(2.02 on wikitext-2, where "<unk>" is frequent) are the worst. A token's sensitivity by Fisher information falls with
its frequency, a hundredfold from rare tokens to the most frequent; row weights made of it, or of p to the power of 0.5
to 0.8, helped on one of the texts and hurt on the other. With SQuAD's training contexts, a fifth of what wikitext-2
loses falls on tokens of its own spacing (" ,", " <", "unk", " .", " ]", 15 % of the text): rare in all other text, they
lie far down the tiers, and the order of the vocabulary as a third share moves them up little. The rest is spread over
words of the passages' subjects.

With trellis tiers, SmolLM2, tied, 25x: Kullback-Leibler divergence from the dense model on SQuAD's validation contexts
0.402 nats a token with the blend to the power of 0.5, 0.362 with 0.75, and 0.36 to 0.37 with 1; all-MiniLM keeps 0.5
(mean cosine of its sentence embeddings at 103x: 0.827, and 0.819 with 0.75). Predictions of the model on the text, as
a third share beside the text's counts and its predictions on its own samples: 0.343 in the place of 0.363.

Where that divergence came from (SmolLM2, tied, 25x, the head's part alone): rare tokens, whose own logits were 4 nats
too low where they are predicted, since coding shrinks rows in their own direction. With row scales that undo it, in the
covariance of the hidden states and about the mean of the rows that are predicted: 0.310 in the place of 0.343. About
the plain mean or in the metric itself there is little or no gain, and other factors for each direction blow up the
noise (0.37 and more). With it the head may weigh more: blends of (0.1, 0.5, 0.4), (0.1, 0.7, 0.2), (0.1, 0.8, 0.1) and
(0.1, 0.9, 0): 0.310, 0.275, 0.276, 0.298; (0.1, 0.3, 0.6): 0.342. The covariance to the power of 1, 0.75 and 0.5:
0.286, 0.275, 0.280 with lambda = 9, and 0.279 with 0.75 and 4; at 50x 0.865 (1 and 9), 0.867 (0.75 and 3) and 0.940
(0.6 and 9). Equal shares of row weights of 0.08, 0.15 and 0.25: 0.301, 0.286, 0.327. Efficiencies of base codes taken
for 0.72, 0.78 and 0.84: 0.285, 0.275, 0.310.

SmolLM2, input table alone, 25x: with an encoder's blend, (0.8, 0, 0.2) to the power of 0.5, 0.203; (0.5, 0, 0.5) and
(0.2, 0, 0.8) to it 0.180 and (to 0.75) 0.157; to the power of 1 shares of 0.5, 0.8 and 0.9 of the input metric 0.146,
0.145 and 0.138. At 50x 0.517 for 0.686. Nearly all of it is on rare tokens (a tenth of the text, coded with 0.2 of
their energy left: one nat where each occurs). Equal shares of row weights of 0.08, 0.15 and 0.25: 0.160, 0.146, 0.160.
No gain from a metric measured on embeddings with their coding error (0.147), half of it (0.143) or noise like it
(0.158), though the model is twice as sensitive there along the errors as at the dense rows; 3 % from rows about their
mean that keep their length. Powers are constants of `modeling.measure`, and were changed there.

Rows that lean on others (`coding.references`), SmolLM2, divergence on SQuAD's validation contexts: tied at 25x 0.275
without, 0.244 where 8192 rows stand alone, 0.231 with 16384; at 50x 0.881, 0.718 and 0.785; the input table alone at
25x 0.145, 0.118 and 0.114. For 8192 rows the planner promises 0.17 to 0.19 less loss than without, for 16384 0.2, 2.3
and 1.7 % more than for 8192; it takes the larger number where it loses at most 2 %. A second row to lean on: 5 % less
error for bits that are worth 4 %. Without rows that lean: base codes and tiers refined in turns, 3 % less error in rare
rows and 3 % less divergence on one text, 2 % more on another, for half the time again; tiers of a bit for four values
(0.73 of the variance), which no plan uses; scales of all tiers in 4 bits, 1 % less divergence. In use are 4 bits for
the first one and none for the others.

How many tokens of text and of samples, each, unigram, head metric and covariance are measured on, SmolLM2, tied, 25x,
divergence on SQuAD's validation contexts and on a passage of wikitext-2, other samples each time: 8192: 0.242 and
0.133, 16384: 0.229 and 0.126, 32768: 0.231 and 0.121 (`--predicted-tokens`). With the gradients of as many, 32768:
0.227 and 0.121: 8192 tokens do for these, though the input metric of two draws of text differs by 84 % (a thousandth of
the gradients makes up a sixth of it; clipped to their root mean square it differs by half as much). Plans that gave up
2 % of predicted loss for more base bits, so as to be cut later: 0.231 and 0.134, without 0.229 and 0.126. Rounds of
refinement, 8, 12 and 16, before these changes: 0.231, 0.230 and 0.226.

Gradients that are shortened where they are long, SmolLM2, input table alone, 25x, divergence on two passages of
wikitext-2 and on SQuAD's validation contexts, 12288 tokens each: as they are 0.049, 0.046 and 0.092; to their root
mean square 0.042, 0.041 and 0.085; to a third of it 0.050, 0.046 and 0.098. Other seeds of the code, to the root mean
square: 0.046, 0.046 and 0.088; 0.049, 0.044 and 0.095: less than a tenth says nothing. With a share of 0.9 in the place
of 0.8: 0.045, 0.044 and 0.081. Tied: 0.113, 0.109 and 0.173 as they are, 0.114, 0.113 and 0.181 shortened.

Trellis codes that bite their tails, in the place of those that start after zeros, on the same texts and for the same
seeds: the input table alone 0.046, 0.041 and 0.091 for 0.046, 0.046 and 0.088; 0.047, 0.044 and 0.094 for 0.049, 0.044
and 0.095; tied 0.113, 0.109 and 0.173 for 0.117, 0.113 and 0.176. Nearly all of it is on rare tokens, which have no
tiers. With these codes and two further seeds, gradients as they are: 0.045, 0.044 and 0.092; 0.048, 0.044 and 0.090;
shortened: 0.046, 0.041 and 0.091; 0.045, 0.044 and 0.087: 3 % less, within the noise. They stay shortened because two
draws of text then agree better; by their batch, which changes the metric by 3 %, so that none need be kept.

all-MiniLM at 200x, frequencies from the tokenizer and equal ones in shares of 0, 0.15, 0.3, 0.5, 0.7 and 0.85: 0.832,
0.884, 0.908, 0.921, 0.924 and 0.933 of the dense model's correlation on STS-B's training rows; at 50x 0.990 and 0.989
with 0 and 0.3. In use is a half where nothing but the tokenizer is known. Before, special tokens weighed in the plan
for an eighth of all tokens, as if they were coded, which had about the effect of a quarter.

Base codes planned by the rates of their components, in the place of their mean rate: 325 bits in the place of 227 where
the input table is coded alone: 0.043, 0.042 and 0.085, 0.046, 0.046 and 0.084; tied 0.116, 0.109 and 0.174.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tests.benchmarks.common import print_table, timed
from tests.benchmarks.divergence import divergence_on
from tests.benchmarks.rate_distortion import measure_with
from tests.benchmarks.real_tables import RealTable, load_table
from transformers_lighttoken import LightTokenConfig, compress_table
from transformers_lighttoken.evaluation.data import load_rows
from transformers_lighttoken.evaluation.zero_shot import sts_spearman
from transformers_lighttoken.modeling import measure
from transformers_lighttoken.modeling.calibration import Calibration, from_frequencies, from_samples, from_text
from transformers_lighttoken.modeling.frequency import token_frequencies
from transformers_lighttoken.modeling.sensitivity import OutputStatistics, blend, input_metric, output_statistics
from transformers_lighttoken.modeling.tokens import exact_token_ids

Blend = tuple[float, float, float]
_PLAIN: Blend = (1.0, 0.0, 0.0)
INPUT_BLENDS: list[Blend] = [_PLAIN, (0.9, 0.0, 0.1), measure._INPUT_BLEND, (0.5, 0.0, 0.5), (0.2, 0.0, 0.8)]
WRITER_BLENDS: list[Blend] = [_PLAIN, (0.8, 0.0, 0.2), (0.5, 0.0, 0.5), measure._WRITER_BLEND, (0.1, 0.0, 0.9)]
TIED_BLENDS: list[Blend] = [_PLAIN, (0.5, 0.5, 0.0), (0.1, 0.5, 0.4), measure._TIED_BLEND, (0.1, 0.9, 0.0)]


def sequences_of(table: RealTable, source: str, contexts: list[str], tokens: int, seed: int) -> Calibration:
    """Sequences to measure on, of so many tokens from each source."""
    if source.startswith("text"):
        text = from_text(contexts, table.tokenizer, tokens)
        return text if source == "text" else text.joined(from_samples(table.model, tokens, seed))
    if source == "samples":
        return from_samples(table.model, tokens, seed)
    return from_frequencies(token_frequencies(table.tokenizer, len(table.weight)), table.tokenizer, tokens, seed)


def measured(
    table: RealTable, source: str, contexts: list[str], tokens: int, seed: int
) -> tuple[tuple[Tensor | None, Tensor, Tensor | None], Tensor]:
    """Metrics of a tied head, if there is one, and of the input, the head's covariance; and token frequencies.

    Args:
        table: the model and its table.
        source: of the sequences.
        contexts: text.
        tokens: from each source, for what one pass forward tells.
        seed: of samples and draws.
    """
    model, device = copy.deepcopy(table.model), table.weight.device
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    sequences = sequences_of(table, source, contexts, measure._MEASURED_TOKENS, seed)
    inputs = input_metric(model, [embedding], sequences.batches(device), measure._PROJECTIONS, seed)
    tied = head is not None and head.weight is embedding.weight
    found = OutputStatistics(None)
    if tied or model.can_generate():
        met = sequences_of(table, source, contexts, tokens, seed)
        found = output_statistics(model, head if tied else None, met.batches(device))
    prior = token_frequencies(table.tokenizer, len(table.weight))
    text = contexts if source.startswith("text") else None
    frequencies = measure.estimated_frequencies(prior, found.unigram, text, table.tokenizer)
    return (found.metric, inputs, found.covariance), frequencies


def without_its_head(table: RealTable) -> RealTable:
    """The table of a model whose head keeps a dense copy of it."""
    table.model.get_output_embeddings().weight = nn.Parameter(table.weight.clone())
    table.model.config.tie_word_embeddings = False
    return table


def task_of(table: RealTable, data: Path, rows: int) -> tuple[str, Callable[[], float]]:
    """A zero-shot measurement on rows that are evaluated nowhere else."""
    model, tokenizer = table.model, table.tokenizer
    if model.can_generate():
        text = "\n".join(dict.fromkeys(load_rows(data, "squad", "validation")["context"]))
        reference = copy.deepcopy(model)
        return "divergence", lambda: divergence_on(text, reference, model, tokenizer, 2 * rows)
    chosen = load_rows(data, "stsb", "train").shuffle(seed=0).select(range(rows))
    dense = sts_spearman(model, tokenizer, chosen).spearman
    return "Spearman over dense", lambda: sts_spearman(model, tokenizer, chosen).spearman / dense


def compressed(table: RealTable, ratio: float, shares: Blend, parts: tuple[Any, ...], frequencies: Tensor) -> Tensor:
    """The decoded table under a blend."""
    *metrics, covariance = parts
    power = measure._WRITER_POWER if table.model.can_generate() else measure._INPUT_POWER
    if metrics[1] is not None:
        power = measure._TIED_POWER
    if covariance is not None:
        covariance = blend([(1.0, covariance)], len(covariance), measure._TIED_POWER)
    metric = None if shares == _PLAIN else blend(zip(shares, metrics, strict=True), table.weight.shape[1], power)
    exact = exact_token_ids(table.tokenizer, len(table.weight))
    config = LightTokenConfig(compression_ratio=ratio)
    coded = compress_table(
        table.weight, config, exact_ids=exact, frequencies=frequencies, metric=metric, head_covariance=covariance
    )
    return coded.decode_all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with stsb and squad")
    parser.add_argument("--table", choices=("all-minilm", "smollm2"), default="all-minilm")
    parser.add_argument("--ratio", type=float, default=50.0)
    parser.add_argument("--untied", action="store_true", help="the input table of a language model alone")
    parser.add_argument("--predicted-tokens", type=int, default=measure._PREDICTED_TOKENS, help="to predict on")
    parser.add_argument("--seed", type=int, default=0, help="of the sequences")
    parser.add_argument("--sources", nargs="*", help="some of the sources alone")
    parser.add_argument("--blends", choices=("all", "default"), default="all")
    parser.add_argument("--rows", type=int, default=2000, help="sentence pairs, or half the tokens, to measure on")
    args = parser.parse_args()
    if args.untied and args.table != "smollm2":
        parser.error("--untied is for a language model: --table smollm2")
    table = load_table(args.table)
    writes = table.model.can_generate()
    blends, default = (TIED_BLENDS, measure._TIED_BLEND) if writes else (INPUT_BLENDS, measure._INPUT_BLEND)
    if args.untied:
        table, blends, default = without_its_head(table), WRITER_BLENDS, measure._WRITER_BLEND
    contexts = list(dict.fromkeys(load_rows(args.data, "squad", "train")["context"]))
    name, score = task_of(table, args.data, args.rows)
    lines: list[list[object]] = []
    sources = ["text and samples", "text", "samples", "frequencies"] if writes else ["text", "frequencies"]
    for source in args.sources or sources:
        metrics, frequencies = measured(table, source, contexts, args.predicted_tokens, args.seed)
        parts = (None, *metrics)
        for shares in blends if args.blends == "all" else [default]:
            decode = lambda b=shares, p=parts, f=frequencies: compressed(table, args.ratio, b, p, f)  # noqa: E731
            decoded, seconds = timed(decode)
            mark = " (default)" if shares == default else ""
            lines.append([source, f"{shares}{mark}", measure_with(table, decoded, score), seconds])
            print_table(["source", "identity, head, input", name, "seconds"], lines[-1:])
    print(f"\n{table.title} at {args.ratio:g}x:\n")
    print_table(["source", "identity, head, input", name, "seconds"], lines)


if __name__ == "__main__":
    main()
