"""The dense model, LightToken and the baselines of the field, fine-tuned with the same budget, in one table."""
