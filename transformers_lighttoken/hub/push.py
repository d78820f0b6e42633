"""push_compressed: a compressed checkpoint goes to the Hub in one commit, with a card that tells what is known."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from huggingface_hub import CommitInfo

from ..checkpoint.compressed import CompressedCheckpoint, read_compressed
from ..checkpoint.files import CONFIG, WEIGHTS_INDEX, files_beside_weights
from ..checkpoint.identity import SAVED_TOKENIZER_FILES, tokenizer_files
from ..checkpoint.source import SourceError
from ..report import compression_report
from ..version import __version__
from .base_card import CARD
from .card import render_card
from .client import HubClient, hub_api
from .facts import CardFacts, CardWishes, gather_facts
from .options import PULL_REQUEST, PushOptions, check_arguments
from .pictures import PATHS as PICTURE_PATHS
from .pictures import draw_pictures
from .publication import results_to_publish
from .results import FILE_NAME as RESULTS
from .results import Evaluation
from .target import MAIN, Target
from .target_checks import check_base, check_target

_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
OURS = {CARD, RESULTS, *PICTURE_PATHS}
"""Files that every push makes anew."""


def push_compressed(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    license: str | list[str] | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    base_model: str | None = None,
    language: str | list[str] | None = None,
    evaluation: Evaluation | Sequence[Evaluation] | None = None,
    tags: Sequence[str] = (),
) -> CommitInfo:
    """Pushes a compressed checkpoint: model, tokenizer, config, card and pictures in one commit.

    Everything is checked before anything is sent. Files that have not changed are not sent again, and where nothing
    has changed no commit is made. A push that failed can be repeated: it goes on with what has arrived. A repository
    (or branch) that was created for a push that then failed stays, without files. What is replaced or deleted is the
    former state of the same compressed model: its weights in other shards, files of its tokenizer, card, pictures, and
    the results of another state of it; other files there stay as they are, but on a new branch the weights that main
    holds in other forms. A branch that holds a model which is not compressed with LightToken is refused.

    Args:
        folder: of the compressed checkpoint.
        repo_id: `namespace/name`; a name alone is in the namespace of the user. Created if it is not there.
        private: whether a repository that is created is private; None for the namespace's own default.
        revision: branch to push to, created from main if it is not there; `refs/pr/N` for a pull request.
        create_pr: opens a pull request instead of committing; to change one, push to its `refs/pr/N`.
        token: with write permission; the one that is logged in when None.
        commit_message: title of the commit.
        commit_description: of the commit.
        license: of the model; that of the base model when None.
        license_name: with the license "other".
        license_link: with the license "other".
        base_model: repository of the model that was compressed; the recorded one when None.
        language: of the model; that of the base model when None.
        evaluation: JSON files of `lighttoken evaluate`, or what they hold; what was published of the same state of the
            model when None.
        tags: for the card, beside ours.

    Returns:
        The commit, or the last one there if nothing has changed.

    Raises:
        SourceError: if the folder is no compressed checkpoint, or that of a training run with its latents.
        LightTokenCheckpointError: if it is damaged, its digest included.
        ValueError: for an argument that cannot be met; if no licence is known.
        HubError: if the Hub, or the connection to it, fails, or the token may not write.
        ImportError: if the libraries of the extra `card` are missing.
    """
    wishes = CardWishes(license, license_name, license_link, base_model, language, evaluation, tags)
    options = PushOptions(private, revision, create_pr, token, commit_message, commit_description)
    return push_checkpoint(Path(folder), repo_id, wishes, options)


def push_checkpoint(
    folder: Path, repo_id: str, wishes: CardWishes, options: PushOptions, carried: Collection[str] | None = None
) -> CommitInfo:
    """As `push_compressed`, with its arguments in two groups.

    Beside the model's config and weights, only the files in `carried` are pushed; all when None.
    """
    check_arguments(repo_id, options)
    checkpoint = read_compressed(folder)
    _refuse_training_state(checkpoint)
    report = compression_report(folder)
    files = files_to_push(checkpoint, carried)

    api = hub_api(options.token)
    proposes = options.create_pr or PULL_REQUEST.fullmatch(options.revision or MAIN) is not None
    client = HubClient.log_in(api, repo_id, create_pr=proposes)
    target = client.look_up(options.revision)
    client = client.follow(target, create_pr=proposes)
    check_target(client, target, options)
    branch = None if target.revision == MAIN or PULL_REQUEST.fullmatch(target.revision) else target.revision
    there = {*files, *target.files}
    evaluated = results_to_publish(client, target, folder, files, wishes.evaluation)
    facts = gather_facts(
        api, checkpoint, report, client.repo_id, wishes, revision=branch, files=there, evaluated=evaluated
    )
    check_base(client, facts.base.name, checkpoint.source.config, target, options)
    files |= documents(facts)
    client.check_card(bytes(files[CARD]).decode())

    if not target.exists:
        target = client.create(options.private, options.revision)
        check_target(client, target, options)  # somebody else may have created it meanwhile
    return client.commit(
        target,
        {path: content for path, content in files.items() if not target.has(path, content)},
        stale_files(target, files),
        message=options.message or f"Upload model compressed with transformers-lighttoken {__version__}",
        description=options.description,
        create_pr=options.create_pr,
    )


def _refuse_training_state(checkpoint: CompressedCheckpoint) -> None:
    if any(table.latents for table in checkpoint.tables):
        folder = checkpoint.source.folder
        load = f"AutoModel.from_pretrained({str(folder)!r})"
        raise SourceError(
            f"{folder} is the checkpoint of a training run, with float32 latents that only going on with it needs: "
            f"push what trainer.save_model(FOLDER) or {load}.save_pretrained(FOLDER) exports."
        )


def files_to_push(checkpoint: CompressedCheckpoint, carried: Collection[str] | None = None) -> dict[str, Path | bytes]:
    """The files of a checkpoint that go to the Hub, by path: hidden ones and those that a push makes stay behind."""
    folder, weights = checkpoint.source.folder, checkpoint.weights
    beside = [name for name in checkpoint.source.carried_files() if carried is None or name in carried]
    visible = [
        name for name in beside if name not in OURS and not any(part.startswith(".") for part in name.split("/"))
    ]
    index = [WEIGHTS_INDEX] if weights.index is not None else []
    return {name: folder / name for name in (CONFIG, *weights.metadata, *index, *visible)}


def documents(facts: CardFacts) -> dict[str, Path | bytes]:
    """What a push adds to the checkpoint: card, pictures, and the evaluation that the card reports."""
    pictures = draw_pictures(facts)
    made: dict[str, Path | bytes] = {picture.path: picture.data for picture in pictures}
    if facts.results:
        made[RESULTS] = facts.evaluated.to_json(facts.config.digest)
    made[CARD] = render_card(facts, pictures).encode()
    return made


def stale_files(target: Target, files: Mapping[str, Path | bytes]) -> list[str]:
    """Files there of an earlier state of the model: weights in other shards, documents, parts of its tokenizer.

    A new branch starts with main's files: what it has from there of another model's weights, in any form, goes too.
    """
    tokenizer = SAVED_TOKENIZER_FILES if tokenizer_files(files) else frozenset()
    stale = {path for path in target.files if _WEIGHTS.fullmatch(path) or path in OURS or path in tokenizer}
    if not target.has_branch:
        stale |= target.files.keys() - set(files_beside_weights(target.files))
    return sorted(stale - files.keys())
