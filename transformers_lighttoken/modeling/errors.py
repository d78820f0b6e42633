"""Errors of compressed models."""


class LightTokenCheckpointError(ValueError):
    """A compressed checkpoint is damaged, incomplete, or does not fit the model that is to hold it."""


class UnsupportedEmbeddingError(TypeError):
    """A module cannot be replaced by a compressed table without changing what it computes."""
