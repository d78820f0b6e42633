"""Which files of a checkpoint come along, and which are its weights in another form."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TORCH_WEIGHTS = "pytorch_model.bin"
TORCH_WEIGHTS_INDEX = "pytorch_model.bin.index.json"

_OTHER_FORMATS = {
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".ot", ".pb", ".onnx", ".onnx_data", ".gguf", ".ggml",
    ".tflite", ".mlmodel", ".llamafile",
}  # fmt: skip
_OTHER_WEIGHTS = re.compile(
    r"(model[.\d-].*|consolidated.*)\.safetensors(\.index\.json)?|"  # shards, variants (model.fp16.safetensors)
    r"(pytorch_model|tf_model|flax_model).*\.index\.json|openvino_.*"
)
_OTHER_FOLDERS = re.compile(r"onnx|openvino|coreml|checkpoint-\d+|__pycache__|\.git|\.cache", re.IGNORECASE)
_SENTENCE_MODULE = re.compile(r"\d+_\w+")  # sentence-transformers: 1_Pooling, 2_Dense


def list_files(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, with forward slashes."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def files_beside_weights(names: Iterable[str]) -> list[str]:
    """The files that come along with the weights: tokenizer, templates, modules of sentence-transformers, licence.

    Args:
        names: relative paths of all files of a checkpoint.

    Returns:
        Those that are neither config.json, nor the model's weights in any form.
    """
    names = list(names)
    return [name for name in names if not _is_of_the_model(name, names)]


def _is_of_the_model(name: str, names: list[str]) -> bool:
    path = PurePosixPath(name)
    if any(_OTHER_FOLDERS.fullmatch(part) for part in path.parts[:-1]):
        return True
    if len(path.parts) == 1 and (name in (CONFIG, WEIGHTS, WEIGHTS_INDEX) or _OTHER_WEIGHTS.fullmatch(name)):
        return True
    if path.suffix not in _OTHER_FORMATS:
        return False
    # A module of sentence-transformers (2_Dense) may have its weights in this form alone.
    in_module = len(path.parts) > 1 and _SENTENCE_MODULE.fullmatch(path.parts[0])
    return not in_module or str(path.with_name(WEIGHTS)) in names
