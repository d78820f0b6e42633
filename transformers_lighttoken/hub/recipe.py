"""How a model was compressed, as a command and as a config."""

import json
import shlex

from ..config import LightTokenConfig
from .facts import CardFacts

_STATE = ("tables", "digest", "provenance", "shared_heads", "quant_method", "format_version", "plugin_version")
_NO_OPTION = ("warm_start", "metric", "decoder_dtype")  # of the command line
_OPTIONS = ("rank", "num_stages", "alpha", "solver", "tiers", "tie_policy")


def config_as_json(config: LightTokenConfig) -> str:
    """What was asked for; the state of the checkpoint is left out."""
    unused = ("compression_ratio",) if config.code_bits is not None else ()
    asked = {key: value for key, value in config.to_dict().items() if key not in (*_STATE, *unused)}
    return json.dumps(asked, indent=2)


def command(facts: CardFacts) -> str | None:
    """The command that compresses the base model in the same way; None if the config goes beyond its options."""
    config, defaults = facts.config, LightTokenConfig()
    if any(getattr(config, name) != getattr(defaults, name) for name in _NO_OPTION):
        return None
    size = ["--code-bits", config.code_bits] if config.code_bits is not None else ["--ratio", config.compression_ratio]
    words: list[object] = [
        "lighttoken",
        "compress",
        facts.base.name or "SOURCE",
        "OUTPUT",
        *size,
        "--seed",
        config.seed,
    ]
    for name in _OPTIONS:
        if getattr(config, name) != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", getattr(config, name)]
    for name in config.modules_to_not_convert or []:
        words += ["--modules-to-not-convert", name]
    if facts.base.revision:
        words += ["--revision", facts.base.revision]
    for name in ("frequencies", "calibration"):
        if (config.provenance or {}).get(name):
            words += [f"--{name}", "FILE"]
    line = shlex.join(f"{word:g}" if isinstance(word, float) else str(word) for word in words)
    return line if line.isprintable() and "`" not in line else None
