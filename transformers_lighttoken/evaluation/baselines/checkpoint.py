"""A dense checkpoint whose tables went through a baseline: decoded from what the baseline would store."""

import json
import os
from pathlib import Path
from typing import Any

from ...checkpoint.origin import source_facts
from ...checkpoint.output import new_folder, refuse_inside
from ...checkpoint.source import refuse_quantized, resolve_source
from ...checkpoint.tables import build_skeleton, find_tables
from ...checkpoint.tensor_file import NewTensor
from ...checkpoint.weights import read_weights
from ...checkpoint.write import Change, write_checkpoint
from ...config import LightTokenConfig
from .fitting import fit_baseline

FACTS = "baseline.json"


def baseline_checkpoint(
    source: str | os.PathLike[str], output: str | os.PathLike[str], name: str, ratio: float, seed: int = 0
) -> dict[str, Any]:
    """Writes a checkpoint that differs from a dense one in its token-embedding tables alone.

    The tables are dense again, in float32: the bytes that count are those of `stored_bytes`.

    Args:
        source: a dense checkpoint in safetensors: a folder, or a repository on the Hub.
        output: the folder to make; must not exist, or be empty.
        name: of the baseline, one of `BASELINE_NAMES`.
        ratio: least compression ratio of each table, against float32.
        seed: of all random choices.

    Returns:
        `baseline`, `ratio`, `seed`, `stored_bytes` over all tables, `dense_bytes_float32`, `parameters` by table, and
        which source it was (`origin.source_facts`); also written beside the weights, as baseline.json.

    Raises:
        SourceError: if there is no usable dense checkpoint.
        OutputError: if the output is there already.
        ValueError: if the baseline is unknown, or cannot meet the ratio.
        ImportError: if it needs faiss and that is not installed.
    """
    found = resolve_source(source)
    refuse_quantized(found)
    refuse_inside(output, found.folder)
    weights = read_weights(found.folder)
    change = Change()
    facts: dict[str, Any] = {"baseline": name, "ratio": ratio, "seed": seed, "stored_bytes": 0}
    facts |= {"dense_bytes_float32": 0, "parameters": {}, **source_facts(found)}
    with new_folder(output) as folder:
        for table in find_tables(build_skeleton(found.folder), weights, LightTokenConfig()):
            weight = table.weight.load()
            result = fit_baseline(name, weight, ratio, seed)
            change.removed |= set(table.keys)
            for key in table.keys:
                change.add(key, NewTensor.of(result.table), table.weight.path.name)
            facts["stored_bytes"] += result.stored_bytes
            facts["dense_bytes_float32"] += 4 * weight.numel()
            facts["parameters"][table.site.owner] = result.parameters
        write_checkpoint(folder, found, weights, change, found.config)
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def read_baseline_facts(folder: Path) -> dict[str, Any]:
    """What `baseline_checkpoint` left in its folder."""
    return json.loads((folder / FACTS).read_text(encoding="utf-8"))
