"""A checkpoint that is evaluated: where it lies, what it is, and its model and tokenizer checked against each other."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from ..checkpoint.identity import checkpoint_identity
from ..checkpoint.origin import same_source, source_facts
from ..checkpoint.source import Source, resolve_source
from ..config import QUANT_METHOD
from ..modeling.tokens import check_tokenizer


@dataclass(frozen=True, eq=False)
class Subject:
    """A dense or compressed checkpoint.

    Attributes:
        name: as it was asked for.
        source: its folder and config.json.
    """

    name: str
    source: Source

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.source.folder

    @property
    def digest(self) -> str | None:
        """Digest of the compressed tables' bytes; None for a dense checkpoint."""
        quantization = self.source.config.get("quantization_config") or {}
        return quantization.get("digest") if quantization.get("quant_method") == QUANT_METHOD else None

    def was_made_from(self, dense: "Subject") -> bool:
        """Whether it is known to be compressed from another checkpoint, as that is now."""
        quantization = self.source.config.get("quantization_config") or {}
        recorded = quantization.get("provenance") or {}
        return self.digest is not None and same_source(recorded, source_facts(dense.source))

    def identity(self) -> str:
        """SHA-256 over config, weights and tokenizer, which are read for it: the same for a copy elsewhere."""
        return checkpoint_identity(self.folder)

    def tokenizer(self) -> Any:
        """Loads its tokenizer, which pads on the right, with the model's padding token if it has one.

        Raises:
            ValueError: if there is none, or it is too small to be that of the table.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ValueError(f"{self.name} has no tokenizer that transformers can load: {error}") from error
        tokenizer.padding_side = "right"
        of_model = self.source.config.get("pad_token_id")  # RoBERTa counts positions by it, Llama finds the last token
        known = isinstance(of_model, int) and 0 <= of_model < len(tokenizer)
        padding = tokenizer.convert_ids_to_tokens(of_model) if known else tokenizer.pad_token
        tokenizer.pad_token = padding or tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            raise ValueError(
                f"the tokenizer of {self.name} has no padding token, and no end-of-text token in its place."
            )
        return tokenizer

    def model(self, auto_class: Any, needs_head: bool = False, **options: Any) -> Any:
        """Loads its model in float32.

        Args:
            auto_class: of transformers.
            needs_head: whether all of its weights must be in the checkpoint.
            **options: of `from_pretrained`.

        Raises:
            ValueError: if transformers has no such model of this type, or weights that are needed are missing.
        """
        options |= {"dtype": torch.float32, "output_loading_info": True, "key_mapping": self._key_mapping(auto_class)}
        try:
            model, info = auto_class.from_pretrained(self.folder, **options)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            kind = self.source.config.get("model_type")
            raise ValueError(f"{self.name}: transformers has no {auto_class.__name__} of type {kind!r}.") from error
        missing = set(info["missing_keys"])
        if missing and not needs_head:
            missing &= _body_weights(model)
        if missing:
            raise ValueError(
                f"{self.name} lacks weights that {type(model).__name__} needs ({', '.join(sorted(missing)[:3])}): they "
                "would be random. Give a checkpoint that has them."
            )
        return model

    def _key_mapping(self, auto_class: Any) -> dict[str, str] | None:
        """How weights are called where the class has another prefix: Llama for question answering has "transformer"."""
        config = AutoConfig.from_pretrained(self.folder)
        saved: Any = getattr(transformers, next(iter(config.architectures or ()), ""), None)
        mapping = getattr(auto_class, "_model_mapping", {type(config): auto_class})
        loaded: Any = mapping.get(type(config), None)
        if not (_has_prefix(saved) and _has_prefix(loaded)) or saved.base_model_prefix == loaded.base_model_prefix:
            return None
        return {rf"^{re.escape(saved.base_model_prefix)}\.": f"{loaded.base_model_prefix}."}


def open_subject(source: str | os.PathLike[str], revision: str | None = None) -> Subject:
    """Finds a checkpoint; downloads it where it is on the Hub.

    Raises:
        SourceError: if there is no usable checkpoint.
        HubError: if the Hub fails.
    """
    return Subject(str(source), resolve_source(source, revision))


def _has_prefix(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, PreTrainedModel) and bool(found.base_model_prefix)


def _body_weights(model: PreTrainedModel) -> set[str]:
    """Names of the weights below the head; not those of a pooler, which may be new and is part of the head then."""
    with torch.device("meta"):
        names = AutoModel.from_config(model.config).state_dict()
    prefix = f"{model.base_model_prefix}."
    return {key for name in names if "pooler" not in name.split(".") for key in (name, prefix + name)}


def check_vocabulary(subject: Subject, model: Any, tokenizer: Any, largest_id: int) -> None:
    """Refuses a tokenizer that is not the table's.

    What counts is the largest id that the data or padding really gives: tokenizers of good models (Gemma 3) know a
    token or two, never met in text, that the table has no row for.

    Args:
        subject: for the message.
        model: with its table.
        tokenizer: of the data.
        largest_id: that the data gives.

    Raises:
        ValueError: naming both sizes.
    """
    rows = int(model.get_input_embeddings().num_embeddings)
    if max(largest_id, tokenizer.pad_token_id) >= rows:
        raise ValueError(
            f"the tokenizer of {subject.name} gives token id {max(largest_id, tokenizer.pad_token_id)}, but its table "
            f"has {rows} rows: use the model's own tokenizer, or model.resize_token_embeddings({len(tokenizer)})."
        )
    check_tokenizer(tokenizer, rows)
