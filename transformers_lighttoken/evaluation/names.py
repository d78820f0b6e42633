"""The names of everything that can be evaluated."""

from collections.abc import Sequence

from .fine_tuning.tasks import TASKS

ZERO_SHOT_TASKS = ("stsb-zero-shot", "perplexity", "pseudo-perplexity")
"""Spearman correlation of a sentence encoder on STS-B; perplexity of causal, pseudo-perplexity of masked models."""
ALL_TASKS = (*TASKS, *ZERO_SHOT_TASKS)
"""Those that are fine-tuned on, and those that are measured as the model is."""
DEFAULT_OUTPUT = "lighttoken_evaluation"


def check_tasks(names: Sequence[str]) -> None:
    """Refuses unknown tasks.

    Raises:
        ValueError: naming those that there are.
    """
    if not names:
        raise ValueError(f"tasks must be of {', '.join(ALL_TASKS)}; none was given.")
    for name in names:
        if name not in ALL_TASKS:
            raise ValueError(f"task must be one of {', '.join(ALL_TASKS)}, got {name!r}.")
