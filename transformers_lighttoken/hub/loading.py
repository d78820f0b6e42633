"""Which classes load a model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers.models.auto import modeling_auto

_MAPPINGS = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForSpeechSeq2Seq": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "AutoModelForMultipleChoice": "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
    "AutoModelForImageTextToText": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "AutoModelForTextEncoding": "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES",
    "AutoModelForPreTraining": "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
}
_TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model", "tokenizer.model"}
_SENTENCE_MODULES = "modules.json"


@dataclass(frozen=True)
class Loading:
    """What a user imports to load a model.

    Attributes:
        model_class: of transformers.
        has_tokenizer: whether a tokenizer lies beside the model.
        has_sentence_modules: whether sentence-transformers loads it.
    """

    model_class: str = "AutoModel"
    has_tokenizer: bool = False
    has_sentence_modules: bool = False


def how_to_load(config: Mapping[str, Any], files: Collection[str]) -> Loading:
    """The classes for a model.

    Args:
        config: its config.json.
        files: that lie beside it.
    """
    tokenizer = not _TOKENIZER_FILES.isdisjoint(files)
    return Loading(_model_class(config), tokenizer, _SENTENCE_MODULES in files)


def _model_class(config: Mapping[str, Any]) -> str:
    """The Auto class whose mapping names the architecture, else the architecture itself."""
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None
    for auto_class, mapping in _MAPPINGS.items():
        known = getattr(modeling_auto, mapping, {}).get(config.get("model_type"), ())
        if architecture in ([known] if isinstance(known, str) else known):
            return auto_class
    return architecture if architecture in dir(transformers) else "AutoModel"
