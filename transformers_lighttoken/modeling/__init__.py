"""Compressed tables inside transformers models."""
