"""Whether a push may go where it is to go: nothing that is not the same model's may be replaced."""

import json
import re
from collections.abc import Mapping
from typing import Any

from ..checkpoint.files import CONFIG
from ..config import QUANT_METHOD
from .base_card import CARD, BaseCard
from .client import HubClient
from .markup import one_line
from .options import PULL_REQUEST, PushOptions
from .target import MAIN, Target

_ANY_WEIGHTS = re.compile(
    r"(?!(.*/)?training_args\.bin$)(?!(last-checkpoint|checkpoint-\d+)/)"  # what a Trainer puts beside a model
    r".*\.(safetensors|bin|h5|keras|msgpack|pth|pt|ckpt|ot|onnx|tflite|gguf|npz)"
)
_ELSEWHERE = "Push to another repository or to a new branch (revision), or open a pull request (create_pr)."


def check_target(client: HubClient, target: Target, options: PushOptions) -> None:
    """Refuses what cannot be pushed to, or holds another model.

    Args:
        client: of the repository.
        target: what is there.
        options: of the push.

    Raises:
        ValueError: naming the reason and the remedy.
        HubError: if the Hub has to be asked, and fails.
    """
    if options.private and target.exists and not target.private:
        raise ValueError(
            f"private=True, but {target.repo_id} is there already and public: make it private in its settings, or "
            "choose another repo_id."
        )
    if not target.exists and PULL_REQUEST.fullmatch(target.revision):
        raise ValueError(
            f"revision {target.revision!r} is no branch, and {target.repo_id} does not exist: leave the revision out."
        )
    if options.create_pr and target.exists and not target.has_branch:
        raise ValueError(
            f"revision {target.revision!r} is no branch of {target.repo_id}, so no pull request can be to it."
        )
    if _replaces_a_branch(target, options) and _holds_another_model(client, target):
        raise ValueError(
            f"{target.repo_id} holds the weights of a model on {target.revision!r}, and no {CONFIG} there says that "
            f"they are compressed with LightToken: they would be replaced. {_ELSEWHERE}"
        )


def check_base(
    client: HubClient, base_model: str | None, config: Mapping[str, Any], target: Target, options: PushOptions
) -> None:
    """Refuses to replace the dense base model, or what was compressed from another one.

    Args:
        client: of the repository.
        base_model: its repository, if it is known.
        config: config.json of what is pushed; of the same tables the card may name another base model.
        target: what is pushed to.
        options: of the push.

    Raises:
        ValueError: naming the remedy.
        HubError: if the Hub has to be asked, and fails.
    """
    if not _replaces_a_branch(target, options):
        return
    stored = _config(client, target)
    _check_kind(config, stored, target)
    if base_model is None:
        return
    if base_model.lower() == target.repo_id.lower() and target.revision == MAIN:
        raise ValueError(
            f"{target.repo_id} is the base model itself: its dense weights and its card would be replaced. {_ELSEWHERE}"
        )
    card = client.read(target, CARD) if CARD in target.files else b""
    there = BaseCard.parse(card.decode(errors="replace")).base_model
    if there is None or there.lower() == base_model.lower():
        return
    if (_quantization(stored) or {}).get("digest") != config["quantization_config"].get("digest"):
        raise ValueError(
            f"{target.repo_id} holds {there} compressed with LightToken on {target.revision!r}, and what is pushed is "
            f"{base_model}: it would be replaced. {_ELSEWHERE}"
        )


def _check_kind(config: Mapping[str, Any], stored: Mapping[str, Any], target: Target) -> None:
    there = stored.get("model_type")
    if there is not None and there != config.get("model_type"):
        raise ValueError(
            f"{target.repo_id} holds a model of type {one_line(there)!r} on {target.revision!r}, and what is pushed is "
            f"of type {one_line(config.get('model_type'))!r}: it would be replaced. {_ELSEWHERE}"
        )


def _replaces_a_branch(target: Target, options: PushOptions) -> bool:
    return target.has_branch and not options.create_pr and not PULL_REQUEST.fullmatch(target.revision)


def _holds_another_model(client: HubClient, target: Target) -> bool:
    """Whether a model that is not compressed is there alone; on a branch that is still main's copy nothing is lost."""
    if not any(_ANY_WEIGHTS.fullmatch(path) for path in target.files) or _quantization(_config(client, target)):
        return False
    return target.revision == MAIN or client.look_up(MAIN).commit != target.commit


def _config(client: HubClient, target: Target) -> Mapping[str, Any]:
    """The config.json there; empty if there is none that can be read."""
    if CONFIG not in target.files:
        return {}
    try:
        config = json.loads(client.read(target, CONFIG))
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def _quantization(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a config.json says of its compression; None if that is not ours."""
    quantization = config.get("quantization_config")
    ours = isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD
    return quantization if ours else None
