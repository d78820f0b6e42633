"""Mathematics on tables; knows tensors, not models."""
