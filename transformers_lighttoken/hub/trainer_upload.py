"""`Trainer.push_to_hub` of a compressed model: one commit, checked, with errors of the Hub in one line."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils.hub import PushInProgress

from ..checkpoint.files import list_files
from ..checkpoint.source import read_config
from ..modeling.methods import CompressedModel
from .base_card import read_card
from .client import HubClient, hub_api
from .errors import MALFORMED, call_hub
from .options import PushOptions, check_arguments
from .push import stale_files
from .target import Target
from .target_checks import check_base, check_target
from .time_limits import limited_time
from .trainer_card import PUSHING, Pushing
from .training_args import holds_compressed, keep_token_out

_CLIENT = "_lighttoken_client"
_IGNORED = ["_*", f"{PREFIX_CHECKPOINT_DIR}-*", *DEFAULT_IGNORE_PATTERNS]  # as Trainer itself leaves them out


def in_one_checked_commit(own: Callable[..., Any]) -> Callable[..., Any]:
    """A `push_to_hub` that pushes compressed models as `push_compressed` does; other models go their usual way."""

    @wraps(own)
    def push_to_hub(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if holds_compressed(trainer):
            keep_token_out(trainer, Path(trainer.args.output_dir))
        if not isinstance(trainer.accelerator.unwrap_model(trainer.model), CompressedModel):
            return own(trainer, *args, **kwargs)
        trainer._finish_current_push()  # it reads the output folder, which must not change under it
        return _push(trainer, *args, **kwargs)

    return push_to_hub


def write_checked_card(trainer: Any, **of_card: Any) -> tuple[HubClient, Target]:
    """Looks up what is there, has the card written, and refuses what may not be replaced.

    Args:
        trainer: that has saved its model in its output folder.
        **of_card: arguments of `create_model_card`.

    Raises:
        ValueError: if another model is there, what is asked for is malformed, or no licence is known.
        HubError: if the Hub fails, or the token may not write.
    """
    pushing = Pushing.of(trainer)
    options = PushOptions(private=pushing.private, revision=pushing.revision)
    check_arguments(trainer.hub_model_id, options)
    client = _logged_in(trainer, pushing.token, trainer.hub_model_id)
    target = client.look_up(options.revision)
    client = client.follow(target)
    check_target(client, target, options)
    before = getattr(trainer, PUSHING, None)
    setattr(trainer, PUSHING, replace(pushing, client=client, target=target))
    try:
        of_card["model_name"] = of_card.get("model_name") or client.repo_id.split("/")[-1]
        trainer.create_model_card(**of_card)
    finally:
        setattr(trainer, PUSHING, before)
    folder = Path(trainer.args.output_dir)
    card = read_card(folder)
    check_base(client, card.base_model if card else None, read_config(folder), target, options)
    return client, target


def _logged_in(trainer: Any, token: str | None, repo_id: str) -> HubClient:
    """The client of a Trainer; the Hub limits how often it says who a token belongs to, so it is asked once."""
    known: HubClient | None = getattr(trainer, _CLIENT, None)
    if known is None or (known.api.token, known.repo_id) != (token, repo_id):
        known = HubClient.log_in(hub_api(token), repo_id)
        setattr(trainer, _CLIENT, known)
    return known


def _push(
    trainer: Any,
    commit_message: str | None = "End of training",
    blocking: bool = True,
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    **of_card: Any,
) -> Any:
    """As `Trainer.push_to_hub`; further arguments are those of `create_model_card`."""
    trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)
    setattr(trainer, PUSHING, Pushing(token, revision, private, license_name, license_link))
    try:
        if trainer.hub_model_id is None:
            _create_repository(trainer, private)
        trainer.save_model(_internal_call=True)
        if not trainer.is_world_process_zero():
            return None
        client, target = write_checked_card(trainer, **of_card)
    finally:
        delattr(trainer, PUSHING)
    folder = Path(trainer.args.output_dir)
    names = filter_repo_objects(list_files(folder), ignore_patterns=_IGNORED)
    files: dict[str, Path | bytes] = {name: folder / name for name in names}

    def commit() -> Any:
        added = {name: path for name, path in files.items() if not target.has(name, path)}
        return client.commit(
            target, added, stale_files(target, files),
            message=commit_message or "End of training", description=None, create_pr=False,
        )  # fmt: skip

    if blocking:
        return commit()
    job = client.api.run_as_future(commit)
    jobs: Any = [job]
    trainer.push_in_progress = PushInProgress(jobs)  # for which the next push waits
    return job


def _create_repository(trainer: Any, private: bool | None) -> None:
    name = trainer.args.hub_model_id or Path(trainer.args.output_dir).absolute().name
    token = Pushing.of(trainer).token
    if trainer.is_world_process_zero():
        check_arguments(name, PushOptions(revision=Pushing.of(trainer).revision))
        _logged_in(trainer, token, name)

    def create() -> None:
        trainer.init_hf_repo(token=token, private=private)

    with limited_time():
        call_hub("create the repository", name, create, malformed=MALFORMED)
