"""How a model was compressed, as a command and as a config."""

import json
import shlex

from ..config import LightTokenConfig
from .facts import CardFacts

_STATE = ("tables", "digest", "provenance", "shared_heads", "quant_method", "format_version", "plugin_version")
_NO_OPTION = ("warm_start", "decoder_dtype")  # of the command line
_OPTIONS = ("rank", "num_stages", "alpha", "solver", "tiers", "metric", "tie_policy")
_DEVICES = ("cpu", "cuda")


def config_as_json(config: LightTokenConfig) -> str:
    """What was asked for; the state of the checkpoint is left out."""
    unused = ("compression_ratio",) if config.code_bits is not None else ()
    asked = {key: value for key, value in config.to_dict().items() if key not in (*_STATE, *unused)}
    return json.dumps(asked, indent=2)


def command(facts: CardFacts) -> str | None:
    """The command that compressed the base model.

    None if the config goes beyond its options, if the tables were recut, or if no command made them: of a model that
    was compressed in memory it is not recorded what it was given.
    """
    config, defaults = facts.config, LightTokenConfig()
    recorded = config.provenance or {}
    if not recorded.get("tables") or recorded.get("recut_from"):
        return None
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
    if isinstance(recorded.get("subfolder"), str) and facts.base.name:
        words += ["--subfolder", recorded["subfolder"]]
    if recorded.get("device") in _DEVICES:
        words += ["--device", recorded["device"]]
    for name in ("frequencies", "calibration"):
        if recorded.get(name):
            words += [f"--{name}", "FILE"]
    line = shlex.join(f"{word:g}" if isinstance(word, float) else str(word) for word in words)
    return line if line.isprintable() and "`" not in line else None


def changes_since(facts: CardFacts) -> str:
    """What is known to have changed after the command, in words; empty where nothing is."""
    tables = facts.report.tables
    subject = "the tables were" if len(tables) > 1 else "the table was"
    is_changed = any(table.relative_error is None for table in tables)
    words = []
    if (facts.config.provenance or {}).get("healed"):
        since = ", and changed since" if is_changed else ""
        words.append(f"{subject} healed by distillation (`lighttoken heal`){since}")
    elif is_changed:
        words.append(f"{subject} changed, as by training or a cast")
    if facts.carried_are_changed:
        words.append("other weights of the model are not the same any more: trained, cast, added or left out")
    return "; ".join(words)
