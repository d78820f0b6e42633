"""What the tests of healing share."""

from pathlib import Path
from typing import Any

from tests.checkpoints import add_tokenizer, save_dense
from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.modeling.heal import HealingOptions

TEXT = [" ".join(f"word{(row * 7 + column * column) % 150}" for column in range(30)) for row in range(40)]
OPTIONS = HealingOptions(steps=12, batch_size=4, window=16, learning_rate=0.005, save_steps=4)


def make(folder: Path, architecture: str, **options: Any) -> tuple[Path, Path]:
    """A dense checkpoint with a tokenizer, and its compressed form."""
    save_dense(folder / "dense", architecture)
    add_tokenizer(folder / "dense")
    config = LightTokenConfig(code_bits=8, **{"metric": "plain", **options})
    compress_checkpoint(folder / "dense", folder / "compressed", config)
    return folder / "dense", folder / "compressed"


def settled(folder: Path) -> None:
    """Nothing of a run is left beside the checkpoint."""
    assert sorted(path.name for path in folder.parent.iterdir()) == ["compressed", "dense"]


class Letters:
    """A tokenizer of single letters with 160 tokens."""

    mask_token_id = pad_token_id = None
    all_special_ids: tuple[int, ...] = ()
    model_max_length = 40
    offset = 0

    def __len__(self) -> int:
        return 160

    def __call__(self, text: Any, **kwargs: Any) -> dict[str, Any]:
        if isinstance(text, str):
            return {"input_ids": [ord(letter) % 150 + self.offset for letter in text]}
        return {"input_ids": [self(part)["input_ids"] for part in text]}
