"""`lighttoken push`."""

from pathlib import Path
from typing import Annotated

import typer

from ..hub.push import push_compressed
from .checkpoints import FolderArgument
from .common import DebugOption, JsonOption, show, show_json, working


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(push)


def push(
    folder: FolderArgument,
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="The repository: namespace/name.")],
    private: Annotated[bool, typer.Option("--private", help="Of a repository that is created.")] = False,
    revision: Annotated[
        str | None, typer.Option(show_default="main", help="Branch to push to, or refs/pr/N for a pull request.")
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Title of the commit.")] = None,
    license: Annotated[
        str | None, typer.Option(show_default="that of the base model", help="Identifier of the licence.")
    ] = None,
    license_name: Annotated[str | None, typer.Option(help="With the licence 'other'.")] = None,
    license_link: Annotated[str | None, typer.Option(help="With the licence 'other'.")] = None,
    base_model: Annotated[
        str | None, typer.Option(show_default="as recorded", help="Repository of the model that was compressed.")
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(show_default="that of the base model", help="Code of a language, such as en; repeatable."),
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help="JSON of `lighttoken evaluate`; repeatable."),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="For the card, beside ours; repeatable.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Pushes a compressed checkpoint to the Hub in one commit, with its card."""
    with working():
        commit = push_compressed(
            folder,
            repo_id,
            private=private or None,
            revision=revision,
            create_pr=create_pr,
            commit_message=message,
            license=license,
            license_name=license_name,
            license_link=license_link,
            base_model=base_model,
            language=language[0] if language and len(language) == 1 else language or None,
            evaluation=evaluation or None,
            tags=tag or (),
        )
    if as_json:
        result = {"repo_id": commit.repo_url.repo_id, "commit": commit.oid, "commit_url": commit.commit_url}
        show_json({**result, "pull_request_url": commit.pr_url})
    else:
        show(f"{commit.repo_url.repo_id} is at {commit.pr_url or commit.commit_url}")
