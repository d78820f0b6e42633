"""LightToken: many times smaller token-embedding tables for Hugging Face models.

Importing this package registers it with transformers: `from_pretrained` then loads compressed checkpoints, and takes a
`LightTokenConfig` as `quantization_config=`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .coding.table import CompressedTable
from .config import LightTokenConfig
from .hub.registration import register_hub_methods
from .modeling.compress import compress_model
from .modeling.embedding import LightTokenEmbedding
from .modeling.quantizer import register
from .version import __version__

if TYPE_CHECKING:
    from .checkpoint.heal import heal_checkpoint
    from .compression import compress_table
    from .hub.push import push_compressed
    from .modeling.heal import heal_model
    from .report import compression_report

__all__ = [
    "CompressedTable",
    "LightTokenConfig",
    "LightTokenEmbedding",
    "__version__",
    "compress_model",
    "compress_table",
    "compression_report",
    "heal_checkpoint",
    "heal_model",
    "push_compressed",
]

_LAZY = {
    "compress_table": ".compression",
    "compression_report": ".report",
    "heal_checkpoint": ".checkpoint.heal",
    "heal_model": ".modeling.heal",
    "push_compressed": ".hub.push",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)


register()
register_hub_methods()
