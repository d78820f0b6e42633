"""The tensors of a checkpoint that compression leaves as they are: whether they still are."""

import hashlib
import json
from collections.abc import Iterable

from .compressed import CompressedCheckpoint
from .tensor_file import TensorBytes

CARRIED = "carried_digest"
"""Key of the provenance."""


def carried_digest(tensors: Iterable[TensorBytes]) -> str:
    """SHA-256 over dtypes, shapes and bytes, as "sha256:<hex>"; not over names and their order, which saving changes.

    Args:
        tensors: all that stand for no compressed table; they are read for it.
    """
    return "sha256:" + hashlib.sha256("".join(sorted(_content_hash(tensor) for tensor in tensors)).encode()).hexdigest()


def carried_are_changed(checkpoint: CompressedCheckpoint) -> bool | None:
    """Whether weights beside the tables are others than when these were compressed; None where that is not recorded.

    Args:
        checkpoint: whose weights are read for it.
    """
    recorded = (checkpoint.config.provenance or {}).get(CARRIED)
    if not isinstance(recorded, str):
        return None
    return recorded != carried_digest(checkpoint.carried_tensors)


def _content_hash(tensor: TensorBytes) -> str:
    content = hashlib.sha256(json.dumps([tensor.dtype, list(tensor.shape)]).encode())
    for chunk in tensor.chunks():
        content.update(chunk)
    return content.hexdigest()
