"""What the card that Trainer writes says of a training, for a card of ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from .base_card import MORE_TAG, WORD
from .markup import escape

_TRAINING = "## Training procedure"
_RESULTS = re.compile(r"^It achieves the following results on the evaluation set:\n(?:- .*\n)+", re.MULTILINE)


@dataclass(frozen=True)
class TrainingAccount:
    """How a model was trained after it was compressed.

    Attributes:
        text: Markdown.
        datasets: on the Hub.
        pipeline_tag: the task it was trained for.
        results: on the evaluation set, as far as Trainer was told of dataset and task.
    """

    text: str = ""
    datasets: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    results: tuple[EvalResult, ...] = ()

    @classmethod
    def read(cls, content: str, given: Mapping[str, Any]) -> "TrainingAccount":
        """Reads the card that Trainer has written.

        Args:
            content: of the card.
            given: the arguments of `Trainer.create_model_card`.
        """
        data = ModelCard(content, ignore_metadata_errors=True).data
        tasks = _listed(given.get("tasks"))
        names = ", ".join(escape(name) for name in _listed(given.get("dataset")))
        results = _RESULTS.search(content)
        parts = [
            f"Trained on: {names}." if names else "",
            results.group().replace(":\n", ":\n\n", 1).strip() if results else "",
            content.partition(_TRAINING)[2].strip(),
        ]
        return cls(
            text="\n\n".join(part for part in parts if part),
            datasets=tuple(name for name in _listed(data.get("datasets")) if MORE_TAG.fullmatch(name)),
            pipeline_tag=tasks[0] if len(tasks) == 1 and WORD.fullmatch(tasks[0]) else None,
            results=tuple(getattr(data, "eval_results", None) or ()),
        )


def _listed(value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value or []
    return [text for text in values if isinstance(text, str)]
