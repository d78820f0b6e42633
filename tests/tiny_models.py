"""Tiny random models of many architectures, with inputs that they take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCAB, DIM = 160, 32
_BERT = {
    "vocab_size": VOCAB,
    "hidden_size": DIM,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": DIM,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
_LLAMA = _BERT | {"num_key_value_heads": 1, "head_dim": 16, "bos_token_id": 2, "eos_token_id": 3}
_BART = {
    "vocab_size": VOCAB,
    "d_model": DIM,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": DIM,
    "decoder_ffn_dim": DIM,
}


@dataclass(frozen=True)
class Architecture:
    """A model class with a tiny config.

    Attributes:
        model: name of the class in transformers.
        config: name of its config class.
        fields: of the config.
        inputs: which inputs the model takes.
        tied: whether an output head shares the table.
    """

    model: str
    config: str
    fields: Mapping[str, Any]
    inputs: str = "text"
    tied: bool = False

    def build(self, seed: int = 0, **fields: object) -> Any:
        """A random model in evaluation mode; its table has rows of different norms."""
        torch.manual_seed(seed)
        model = getattr(transformers, self.model)(getattr(transformers, self.config)(**{**self.fields, **fields}))
        return model.eval()

    def run(self, model: PreTrainedModel) -> torch.Tensor:
        """The model's main output on fixed inputs."""
        with torch.no_grad():
            output = model(**_INPUTS[self.inputs]())
        for name in ("logits", "logits_per_text", "prediction_logits", "last_hidden_state"):
            if name in output:
                return output[name].float()
        raise KeyError(f"no output known in {list(output)}")


def _ids(rows: int = 2, columns: int = 9, seed: int = 1) -> torch.Tensor:
    return torch.randint(4, VOCAB, (rows, columns), generator=torch.Generator().manual_seed(seed))


def _text() -> dict[str, torch.Tensor]:
    ids = _ids()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _seq2seq() -> dict[str, torch.Tensor]:
    return _text() | {"decoder_input_ids": _ids(2, 5, seed=2)}


def _clip() -> dict[str, torch.Tensor]:
    return _text() | {"pixel_values": torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)}


def _whisper() -> dict[str, torch.Tensor]:
    return {"input_features": torch.linspace(-1, 1, 8 * 60).view(1, 8, 60), "decoder_input_ids": _ids(1, 5)}


_INPUTS: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    "text": _text,
    "seq2seq": _seq2seq,
    "clip": _clip,
    "whisper": _whisper,
}
_DEBERTA = _BERT | {"type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_CLIP_TEXT = _BERT | {"eos_token_id": VOCAB - 1}
_CLIP_VISION = {**_BERT, "image_size": 32, "patch_size": 16}

ARCHITECTURES = {
    "bert": Architecture("BertModel", "BertConfig", _BERT),
    "bert-mlm": Architecture("BertForMaskedLM", "BertConfig", _BERT, tied=True),
    "bert-classification": Architecture("BertForSequenceClassification", "BertConfig", _BERT),
    "bert-pretraining": Architecture("BertForPreTraining", "BertConfig", _BERT, tied=True),
    "roberta-mlm": Architecture("RobertaForMaskedLM", "RobertaConfig", _BERT, tied=True),
    "deberta-mlm": Architecture("DebertaForMaskedLM", "DebertaConfig", _DEBERTA, tied=True),
    "deberta-v2-mlm": Architecture("DebertaV2ForMaskedLM", "DebertaV2Config", _DEBERTA, tied=True),
    "deberta-v3-mlm": Architecture("DebertaV2ForMaskedLM", "DebertaV2Config", _DEBERTA | {"legacy": False}, tied=True),
    "deberta-new-mlm": Architecture("DebertaForMaskedLM", "DebertaConfig", _DEBERTA | {"legacy": False}, tied=True),
    "albert-mlm": Architecture(
        "AlbertForMaskedLM", "AlbertConfig", _BERT | {"embedding_size": DIM, "hidden_size": 64}, tied=True
    ),
    "electra": Architecture("ElectraModel", "ElectraConfig", _BERT | {"embedding_size": DIM, "hidden_size": 64}),
    "electra-mlm": Architecture(
        "ElectraForMaskedLM", "ElectraConfig", _BERT | {"embedding_size": DIM, "hidden_size": 64}, tied=True
    ),
    "distilbert-mlm": Architecture(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {"vocab_size": VOCAB, "dim": DIM, "n_layers": 1, "n_heads": 2, "hidden_dim": DIM},
        tied=True,
    ),
    "mpnet-mlm": Architecture("MPNetForMaskedLM", "MPNetConfig", _BERT, tied=True),
    "xlnet": Architecture(
        "XLNetLMHeadModel",
        "XLNetConfig",
        {"vocab_size": VOCAB, "d_model": DIM, "n_layer": 1, "n_head": 2, "d_inner": DIM},
        tied=True,
    ),
    "xlm-roberta-mlm": Architecture("XLMRobertaForMaskedLM", "XLMRobertaConfig", _BERT, tied=True),
    "modernbert-mlm": Architecture(
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        _BERT | {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
        tied=True,
    ),
    "t5": Architecture(
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": VOCAB, "d_model": DIM, "d_kv": 16, "d_ff": DIM, "num_layers": 1, "num_heads": 2},
        "seq2seq",
        tied=True,
    ),
    "t5-encoder": Architecture(
        "T5EncoderModel",
        "T5Config",
        {"vocab_size": VOCAB, "d_model": DIM, "d_kv": 16, "d_ff": DIM, "num_layers": 1, "num_heads": 2},
    ),
    "bart": Architecture("BartForConditionalGeneration", "BartConfig", _BART, "seq2seq", tied=True),
    "bart-scaled": Architecture("BartModel", "BartConfig", _BART | {"scale_embedding": True}, "seq2seq"),
    "gpt2": Architecture(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": VOCAB, "n_embd": DIM, "n_layer": 1, "n_head": 2, "n_positions": 40},
        tied=True,
    ),
    "llama": Architecture("LlamaForCausalLM", "LlamaConfig", _LLAMA | {"tie_word_embeddings": False}),
    "llama-tied": Architecture("LlamaForCausalLM", "LlamaConfig", _LLAMA | {"tie_word_embeddings": True}, tied=True),
    "gemma3": Architecture("Gemma3ForCausalLM", "Gemma3TextConfig", _LLAMA | {"sliding_window": 8}, tied=True),
    "qwen3": Architecture("Qwen3ForCausalLM", "Qwen3Config", _LLAMA | {"tie_word_embeddings": True}, tied=True),
    "clip": Architecture(
        "CLIPModel",
        "CLIPConfig",
        {"text_config": _CLIP_TEXT, "vision_config": _CLIP_VISION, "projection_dim": DIM},
        "clip",
    ),
    "clip-text": Architecture("CLIPTextModel", "CLIPTextConfig", _CLIP_TEXT),
    "whisper": Architecture(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        _BART
        | {"num_mel_bins": 8, "max_source_positions": 30, "max_target_positions": 20, "decoder_start_token_id": 4}
        | {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3},
        "whisper",
        tied=True,
    ),
}
