"""Measures compressed tables and models, and compares them with the baselines of the field."""
