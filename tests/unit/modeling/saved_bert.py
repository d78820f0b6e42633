"""A compressed BERT on disk, and ways to damage it."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from tests.helpers import stored_tensors_of
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import LightTokenConfig

TABLE = "bert.embeddings.word_embeddings"
MLM = ARCHITECTURES["bert-mlm"]
SMALL = LightTokenConfig(rank=2, code_bits=24)


def load(folder: Path, **options: Any) -> Any:
    return transformers.BertForMaskedLM.from_pretrained(folder, **options)


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= fields
    path.write_text(json.dumps(config))


def edit_plan(folder: Path, **fields: object) -> None:
    tables = json.loads((folder / "config.json").read_text())["quantization_config"]["tables"]
    edit_config(folder, tables={name: plan | fields for name, plan in tables.items()})


def edit_tensors(folder: Path, **tensors: torch.Tensor | None) -> None:
    stored = stored_tensors_of(folder)
    for name, tensor in tensors.items():
        key = f"{TABLE}.{name}"
        stored.pop(key) if tensor is None else stored.update({key: tensor})
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
