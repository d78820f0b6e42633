"""Where a run of Trainer that was interrupted goes on."""

import json
import logging
import shutil
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; Trainer writes its own state last.

    Args:
        folder: of Trainer's checkpoints, which need not exist; half-written ones are removed.
    """
    found = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning("%s is half-written and is removed.", path)
            shutil.rmtree(path, ignore_errors=True)
            continue
        return path
    return None
