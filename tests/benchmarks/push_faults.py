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
    STEPS,
    Outcome,
    change_weights,
    does_not_apply,
    push_with_fault,
    run_command,
)

LEGEND = """\
.       nothing is left: the repository is as it was before
empty   a new repository, or a new branch, that was created before the fault; no file of the push is in it
all     the commit was made, its answer was lost; the repeated push changes nothing
!       not one clear line, or half a push, or the repeated push did not complete
-       the fault cannot happen there"""


def cell(outcome: Outcome, fault: str) -> str:
    """One cell of the table."""
    raced = fault == "race" and outcome.after.history["main"][0] == "other work"
    complete = outcome.repeated_status == 0 if raced else outcome.is_completed
    if not (outcome.is_told and complete and outcome.fired) or (outcome.left == "half a push" and not raced):
        return "!"
    return {"nothing": ".", "empty": "empty", "commit": "all"}.get(outcome.left, ".")


def main() -> None:
    """Prints the table."""
    from transformers_lighttoken.checkpoint.compress import compress_checkpoint

    told = cells = 0
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
        print(LEGEND + "\n\n| step | " + " | ".join(FAULTS) + " |\n|---|" + "---|" * len(FAULTS))
        for step in STEPS:
            row = []
            for fault in FAULTS:
                if does_not_apply(step, fault):
                    row.append("-")
                    continue
                outcome = push_with_fault(hub, repo, folder, step, fault)
                cells, told = cells + 1, told + outcome.is_told
                row.append(cell(outcome, fault))
                if row[-1] == "!":
                    print(f"{step}, {fault}: {outcome}", file=sys.stderr)
            print(f"| {step} | " + " | ".join(row) + " |", flush=True)
    print(f"\n{told} of {cells} broken pushes were told in one clear line, none with a traceback.")


def point_at(hub: HubServer, home: Path) -> None:
    """Points the client of this process at the server, with the shortest waits."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http, disable_progress_bars
    from transformers.utils import logging

    from transformers_lighttoken.hub import time_limits

    constants.ENDPOINT, constants.HF_HUB_DISABLE_XET = hub.url, True
    constants.HF_HUB_CACHE = str(home / "cache")
    os.environ["HF_TOKEN"] = hub.write_token
    for module in (_http, file_download):
        mock.patch.object(module, "time", mock.Mock(sleep=lambda seconds: None)).start()
    time_limits.ANSWER_SECONDS = LIMIT_SECONDS
    disable_progress_bars()
    logging.disable_progress_bar()


if __name__ == "__main__":
    main()
