"""How a checkpoint turns sentences into embeddings: as its modules.json says, or by the mean of its hidden states."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModel

from ...optional import import_optional
from ..subject import Subject
from .running import check_token_ids
from .similarity import embed_sentences

Encoder = Callable[[list[str]], Tensor]
"""From sentences to (n, d) float32 on the CPU."""
_MODULES = "modules.json"


def sentence_encoder(subject: Subject, device: str) -> Encoder:
    """The encoder of a checkpoint.

    Where sentence-transformers' modules.json is, that library pools and projects. Elsewhere the mean of the last hidden
    states is taken, of the encoder where the model has a decoder too.

    Args:
        subject: the checkpoint.
        device: to compute on.

    Raises:
        ValueError: if tokenizer or model do not fit.
        ImportError: if sentence-transformers is needed and not installed.
    """
    if (subject.folder / _MODULES).is_file():
        library = import_optional("sentence_transformers", f"{_MODULES} of {subject.name}")
        options = {"dtype": torch.float32}
        model = library.SentenceTransformer(str(subject.folder), device=device, model_kwargs=options)
        return partial(_encode, model, subject.tokenizer())
    tokenizer, model = subject.tokenizer(), subject.model(_class_of(subject)).to(device)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return partial(embed_sentences, model, tokenizer)


def _encode(model: Any, tokenizer: Any, sentences: list[str]) -> Tensor:
    ids = tokenizer(sentences, truncation=True, max_length=model.max_seq_length)["input_ids"]
    check_token_ids(model[0].auto_model, [max(row, default=0) for row in ids])
    return model.encode(sentences, convert_to_tensor=True, show_progress_bar=False)


def _class_of(subject: Subject) -> Any:
    """AutoModel, or the class of an encoder that was saved without its decoder (T5EncoderModel)."""
    saved = next(iter(subject.source.config.get("architectures") or ()), "")
    return getattr(transformers, saved, AutoModel) if saved.endswith("EncoderModel") else AutoModel
