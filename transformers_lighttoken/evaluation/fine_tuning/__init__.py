"""GLUE and SQuAD v1.1 after fine-tuning with Trainer: tasks, metrics, single runs and what they add up to."""
