"""Checkpoints and tables that format version 1 wrote."""
