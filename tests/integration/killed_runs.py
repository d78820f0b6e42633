"""Runs that kill themselves at a given step, and go on afterwards. Used by test_resume.py, in processes of its own.

The arguments are source, output, the config as JSON, and the moments: `what:done` kills at that step, `in place` when
the output has its name and nothing is cleared up yet, `end` lets the run finish.
"""

import json
import os
import signal
import sys
from pathlib import Path

from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.checkpoint import output as output_module
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.distributed import launched_accelerator

STEPS = "steps.json"


def run(source: str, output: str, config: LightTokenConfig, moment: str, victim: int) -> None:
    steps: list[tuple[str, int]] = []

    with launched_accelerator("cpu") as accelerator:
        index = 0 if accelerator is None else accelerator.process_index

        def follow(what: str, done: int, total: int) -> None:
            steps.append((what, done))
            if moment == f"{what}:{done}" and index == victim:
                os.kill(os.getpid(), signal.SIGKILL)

        def in_place(folder: Path) -> None:
            if moment == "in place" and folder == Path(output).parent and index == victim:
                os.kill(os.getpid(), signal.SIGKILL)

        output_module._flush_entry = in_place  # called for the parent folder after the last renaming
        compress_checkpoint(source, output, config, progress=follow, accelerator=accelerator)
    if index == 0:
        Path(output + "-" + STEPS).write_text(json.dumps(steps))


def main() -> None:
    source, output, described, *moments = sys.argv[1:]
    config = LightTokenConfig(**json.loads(described))
    if "WORLD_SIZE" in os.environ:
        return run(source, output, config, moments[0], victim=0)
    for moment in moments:
        child = os.fork()  # nothing was computed yet: only the imports are shared
        if child == 0:
            run(source, output, config, moment, victim=0)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        expected = 0 if moment == "end" else -signal.SIGKILL
        if os.waitstatus_to_exitcode(status) != expected:
            sys.exit(f"at {moment} the run ended with {os.waitstatus_to_exitcode(status)}")
    return None


if __name__ == "__main__":
    main()
