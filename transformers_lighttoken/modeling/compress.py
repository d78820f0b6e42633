"""compress_model: from a dense model in memory to a compressed one."""

from typing import Any

from transformers import PreTrainedModel

from ..config import QUANT_METHOD, LightTokenConfig
from .fitting import fit_tables, sites_to_compress, tokenizer_of
from .quantizer import LightTokenQuantizer


def compress_model(
    model: PreTrainedModel,
    config: LightTokenConfig,
    tokenizer: Any = None,
    frequencies: Any = None,
    calibration: Any = None,
) -> PreTrainedModel:
    """Compresses a model's token-embedding tables in place.

    Args:
        model: a dense transformers model with its weights.
        config: how to compress.
        tokenizer: names the special and added tokens, which are stored exactly; the one beside the model's checkpoint
            when None.
        frequencies: (V,) counts of the tokens, by id.
        calibration: text on which to measure where the model is sensitive, one string or a sequence of passages; the
            model is measured on text that it makes up when None.

    Returns:
        The same model, which `save_pretrained` then writes as a compressed checkpoint. Nothing has been changed if an
        error is raised.

    Raises:
        TypeError: if `model` is no transformers model or `config` no LightTokenConfig.
        ValueError: if the model is quantized already, has no table to compress, or the config cannot be met.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model must be a transformers PreTrainedModel, got {type(model).__name__}.")
    if not isinstance(config, LightTokenConfig):
        raise TypeError(f"config must be a LightTokenConfig, got {type(config).__name__}.")
    _refuse_quantized(model)
    quantizer = LightTokenQuantizer(config, pre_quantized=False)
    sites = sites_to_compress(model, config)
    tokenizer = tokenizer_of(model, sites) if tokenizer is None else tokenizer
    tables = fit_tables(model, sites, config, tokenizer, frequencies, calibration)
    quantizer.adopt(model, sites, tables)
    return model


def _refuse_quantized(model: PreTrainedModel) -> None:
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None and not getattr(model, "is_quantized", False):
        return
    method = getattr(getattr(quantizer, "quantization_config", None), "quant_method", None)
    method = getattr(method, "value", method)
    if method == QUANT_METHOD:
        raise ValueError("the model is compressed with LightToken already: call model.dequantize() first.")
    if method == "gguf" and all(parameter.is_floating_point() for parameter in model.parameters()):
        return  # transformers has dequantized the file's weights, and left its mark on a dense model
    raise ValueError(
        f"the model is quantized already (quant_method {method!r}): LightToken compresses the tables of models in "
        "fp32, fp16 or bf16."
    )
