"""Breaks a push to the loopback Hub by each fault at each step, and repeats it.

    python -m tests.benchmarks.push_faults

Prints what a broken push leaves behind, whether the user got one clear line, and whether the repeated push completes.
"""

import copy
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

from tests.checkpoints import SMALL, add_tokenizer, save_dense
from tests.hub_server import HubServer
from tests.push_faults import (
    FAULTS,
    LIMIT_SECONDS,
    REPO,
    SCENARIOS,
    Outcome,
    change_weights,
    does_not_apply,
    expected,
    push_with_fault,
    run_command,
)

LEGEND = """\
.       nothing is left: the repository is as it was before
empty   a new repository, or a new branch, that was created before the fault; no file of the push is in it
all     the commit was made, its answer was lost; the repeated push changes nothing (or opens a second pull request)
race    the commit of somebody else, who came in between, and nothing of the push
ok      the push went through: nothing of the damaged answer is read
!       not one clear line, or something else is left, or the repeated push did not complete
-       the fault cannot happen there"""
SHOWN = {"nothing": ".", "commit": "all", "harmless": "ok"}


def cell(outcome: Outcome, step: str, fault: str) -> str:
    """One cell of the table."""
    left = "harmless" if outcome.is_harmless else outcome.left
    is_right = left == expected(outcome.scenario, step, fault) and (outcome.is_told or outcome.is_harmless)
    return SHOWN.get(left, left) if is_right and outcome.is_completed and outcome.fired else "!"


def main() -> None:
    """Prints the table."""
    from transformers_lighttoken.checkpoint.compress import compress_checkpoint

    cells = failed = harmless = tracebacks = 0
    with tempfile.TemporaryDirectory() as root, HubServer() as hub:
        point_at(hub, Path(root))
        folder = Path(root) / "compressed"
        save_dense(Path(root) / "dense")
        add_tokenizer(Path(root) / "dense")
        (Path(root) / "dense" / "README.md").write_text("---\nlicense: mit\n---\n")
        compress_checkpoint(Path(root) / "dense", folder, SMALL)
        run_command(["push", str(folder), REPO])
        repo = copy.deepcopy(hub.store.repos[REPO])
        change_weights(folder)
        hub.store.upload_part_bytes = 10_000
        print(LEGEND + "\n\n| push | step | " + " | ".join(FAULTS) + " |\n|---|---|" + "---|" * len(FAULTS))
        for scenario in SCENARIOS:
            for step in scenario.steps:
                row = []
                for fault in FAULTS:
                    if does_not_apply(step, fault):
                        row.append("-")
                        continue
                    outcome = push_with_fault(hub, repo, folder, scenario, step, fault)
                    row.append(cell(outcome, step, fault))
                    cells, failed = cells + 1, failed + (row[-1] == "!")
                    harmless, tracebacks = harmless + outcome.is_harmless, tracebacks + outcome.traceback
                    if row[-1] == "!":
                        print(f"{scenario.name}, {step}, {fault}: {shown(outcome)}", file=sys.stderr)
                print(f"| {scenario.name} | {step} | " + " | ".join(row) + " |", flush=True)
    print(
        f"\n{cells} pushes met a fault: {cells - harmless - failed} were told of in one clear line, {harmless} went "
        f"through all the same, {failed} failed otherwise, {tracebacks} with a traceback."
    )


def shown(outcome: Outcome) -> str:
    """What went wrong, in one line."""
    facts = (outcome.status, outcome.message, outcome.left, outcome.fired, outcome.repeated_status)
    return f"{facts}, {outcome.repeated.history}"


def point_at(hub: HubServer, home: Path) -> None:
    """Points the client of this process at the server, with the shortest waits."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http, disable_progress_bars
    from transformers.utils import logging

    from transformers_lighttoken.hub import time_limits

    constants.ENDPOINT, constants.HF_HUB_DISABLE_XET = hub.url, True
    constants.HUGGINGFACE_CO_URL_TEMPLATE = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_CACHE = str(home / "cache")
    os.environ["HF_TOKEN"] = hub.write_token
    for module in (_http, file_download):
        mock.patch.object(module, "time", mock.Mock(sleep=lambda seconds: None)).start()
    time_limits.ANSWER_SECONDS = LIMIT_SECONDS
    disable_progress_bars()
    logging.disable_progress_bar()


if __name__ == "__main__":
    main()
