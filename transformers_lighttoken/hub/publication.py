"""Which measured results go with a push: those that are given, and others that were published of the same model."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..checkpoint.identity import decisive_files, identity_of, tokenizer_files
from .client import HubClient
from .results import FILE_NAME, Evaluated, Evaluation, read_published, read_results
from .target import Target, sha256_of

logger = logging.getLogger(__name__)


def results_to_publish(
    client: HubClient,
    target: Target,
    folder: Path,
    files: Mapping[str, Path | bytes],
    evaluations: Evaluation | Sequence[Evaluation] | None,
) -> Evaluated:
    """Reads the results that are known of what is pushed; the weights are read for it where there are any.

    Args:
        client: of the repository.
        target: what is there.
        folder: of the checkpoint.
        files: that are pushed.
        evaluations: as the user gives them.

    Raises:
        ValueError: if an evaluation is malformed, or of another model.
        HubError: if the Hub has to be asked, and fails.
    """
    own = folder / FILE_NAME
    if not (evaluations or own.is_file() or FILE_NAME in target.files):
        return Evaluated()
    identity = _identity(client, target, folder, files)
    given = read_results(evaluations, identity) if evaluations else Evaluated()
    published = [own.read_bytes()] if own.is_file() else []
    published += [client.read(target, FILE_NAME)] if FILE_NAME in target.files else []
    known = [found for content in published if (found := read_published(content, identity)).results]
    if not known and not given.results:
        logger.warning(
            "%s is of another state of the model, and is not published with this one: evaluate it anew.", FILE_NAME
        )
    for earlier in known:
        given = given.completed_by(earlier)
    return given


def _identity(client: HubClient, target: Target, folder: Path, files: Mapping[str, Path | bytes]) -> str:
    """The identity of what will be in the repository: a tokenizer that is there goes with a model that brings none."""
    hashes = {name: sha256_of(files[name]) for name in decisive_files(files, folder)}
    if not tokenizer_files(files):
        for name in tokenizer_files(target.files):
            known = target.files[name]
            hashes[name] = known if len(known) == 64 else sha256_of(client.read(target, name))
    return identity_of(hashes)
