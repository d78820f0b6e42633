"""Checkpoints on disk: compressed and decompressed without loading the model."""
