"""The text that healing runs on: windows of token ids, as the model reads them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .calibration import special_frame
from .distillation import Windows
from .positions import longest_input
from .sites import owners
from .tokens import check_tokenizer


def windows_of(model: PreTrainedModel, tokenizer: Any, text: str | Sequence[str], window: int) -> Tensor:
    """Cuts a text into windows, each framed as the tokenizer frames a text.

    Args:
        model: compressed.
        tokenizer: of the model.
        text: one string whose lines are passages, or a sequence of passages.
        window: tokens in a window, special ones included; fewer where model or tokenizer take fewer.

    Returns:
        (n, t) int64 token ids, n at least 2.

    Raises:
        ValueError: if the text is short, or the tokenizer another model's.
    """
    rows = min(owner.num_embeddings for owner in owners(model).values())
    check_tokenizer(tokenizer, rows)
    passages = [line for line in (text.splitlines() if isinstance(text, str) else text) if line.strip()]
    if not passages:
        raise ValueError("text is empty: give some pages of ordinary text.")
    ids = [
        token
        for part in tokenizer([f"{line}\n" for line in passages], add_special_tokens=False)["input_ids"]
        for token in part
    ]
    if not ids:
        raise ValueError("text holds no token that the tokenizer knows: give some pages of ordinary text.")
    if max(ids) >= rows:
        raise ValueError(
            f"the tokenizer gives the id {max(ids)}, the compressed table has {rows} rows: it is another model's."
        )
    before, after = special_frame(tokenizer)
    most = min(window, longest_input(model, tokenizer) or window)
    inner = most - len(before) - len(after)
    if inner < 1:
        raise ValueError(f"window must leave room for text, got {most} tokens with {len(before) + len(after)} special.")
    if len(ids) < 2 * inner:
        raise ValueError(
            f"text has {len(ids)} tokens, two windows of {inner} are the least (one to train on, one to measure on): "
            "give some pages of ordinary text."
        )
    rows_of_text = torch.tensor(ids[: len(ids) // inner * inner]).view(-1, inner)
    frame = [torch.tensor(part, dtype=torch.long).expand(len(rows_of_text), -1) for part in (before, after)]
    return torch.cat([frame[0], rows_of_text, frame[1]], dim=1)


def healing_data(model: PreTrainedModel, tokenizer: Any, ids: Tensor) -> Windows:
    """What the model reads of each window: masked where it is a masked language model, with the decoder's inputs."""
    name = getattr(model, "dense_class", type(model)).__name__
    masked = name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() or name.endswith("ForPreTraining")
    mask_token_id = tokenizer.mask_token_id if masked else None
    start = None
    if model.config.is_encoder_decoder:
        start = getattr(model.config, "decoder_start_token_id", None)
        start = start if start is not None else tokenizer.pad_token_id or 0
    return Windows(ids, mask_token_id, list(tokenizer.all_special_ids), start)
