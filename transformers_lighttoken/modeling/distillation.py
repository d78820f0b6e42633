"""Distilling a dense model into a compressed one: what is compared, and the Trainer that does it. Beyond the paper."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.utils import SAFE_WEIGHTS_NAME

from ..coding.encode import Progress

Batch = Mapping[str, Tensor]
_MASKED_SHARE = 0.15
_ROW_SCALE_RATE = 0.3
_ROW_SCALE_EPSILON = 3e-4
"""Gradients of row scales far below this, in units of the divergence, move them little. Adam's usual epsilon moves the
scale of every token as fast as it can, of those that the text lacks too, and what is won on it is lost elsewhere."""


class Windows(Dataset):
    """Windows of a text, all of one length.

    Args:
        ids: (n, t) int64 token ids.
        mask_token_id: of a masked language model; a share of each window is hidden behind it, always the same tokens.
        special_ids: tokens that are never hidden.
        decoder_start: first input of the decoder of a model that has one; None elsewhere.
    """

    def __init__(
        self,
        ids: Tensor,
        mask_token_id: int | None = None,
        special_ids: list[int] | None = None,
        decoder_start: int | None = None,
    ) -> None:
        self.ids, self.decoder_start = ids, decoder_start
        self.inputs = ids if mask_token_id is None else _masked(ids, mask_token_id, special_ids or [])

    def __len__(self) -> int:
        return self.ids.shape[0]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self.inputs[index]
        item = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.decoder_start is not None:
            item["decoder_input_ids"] = torch.cat([ids.new_tensor([self.decoder_start]), self.ids[index, :-1]])
        return item


def divergence(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    """How far a compressed model is from the dense one on a batch without padding.

    Language models of every kind are compared by their predictions, the mean over tokens of KL(dense || compressed) in
    nats; encoders without such a head by their last hidden states, |h' - h|^2 / |h|^2 over the batch.

    Returns:
        A scalar, float32.
    """
    with torch.no_grad():
        expected = _output(teacher, batch)
    given = _output(student, batch)
    if _predicts(teacher):
        given, expected = (logits.flatten(0, -2).float().log_softmax(-1) for logits in (given, expected))
        return functional.kl_div(given, expected, reduction="batchmean", log_target=True)
    expected = expected.float()
    return (given.float() - expected).square().sum() / expected.square().sum()


class DistillationTrainer(Trainer):
    """Moves the parameters that train towards a dense model's outputs; its checkpoints hold these parameters alone.

    Args:
        *args: of Trainer.
        teacher: the dense model.
        **kwargs: of Trainer.
    """

    def __init__(self, *args: Any, teacher: PreTrainedModel, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval()  # pyright: ignore[reportArgumentType]

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The divergence; without dropout, which the dense model does not have either."""
        model.eval()
        return divergence(model, self.teacher, inputs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, with a rate and an epsilon of their own for row scales."""
        if self.optimizer is None:
            made_by, options = self.get_optimizer_cls_and_kwargs(self.args)
            groups = _groups(self.model if model is None else model, self.args.learning_rate)
            self.optimizer = made_by(groups, **options)
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves what trains."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.model
        trained = {name: value.detach().contiguous() for name, value in model.named_parameters() if value.requires_grad}
        save_file(trained, folder / SAFE_WEIGHTS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        model.load_state_dict(load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME), strict=False)


def _groups(model: Any, learning_rate: float) -> list[dict[str, Any]]:
    """What trains, in groups of one rate; none decays."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    scales = [value for name, value in trained.items() if name.endswith("row_scale")]
    others = [value for name, value in trained.items() if not name.endswith("row_scale")]
    slow = {"lr": learning_rate * _ROW_SCALE_RATE, "eps": _ROW_SCALE_EPSILON}
    groups = [{"params": others}, {"params": scales, **slow}]
    return [{**group, "weight_decay": 0.0} for group in groups if group["params"]]


class ProgressReporter(TrainerCallback):
    """Tells a `Progress` of each step.

    Args:
        progress: told what is done, how many steps are, and how many there are in all.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by Trainer; where a run goes on, its time is estimated from there."""
        if state.global_step:
            self.on_step_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by Trainer."""
        self.progress("healing steps", state.global_step, state.max_steps)


def _predicts(model: nn.Module) -> bool:
    return getattr(model, "get_output_embeddings", lambda: None)() is not None


def _output(model: nn.Module, batch: Batch) -> Tensor:
    """(..., V) logits, or (..., d) last hidden states of a model that predicts no tokens."""
    if _predicts(model):
        output = model(**batch)
        return output.prediction_logits if hasattr(output, "prediction_logits") else output.logits  # BertForPreTraining
    base = getattr(model, "base_model", model)
    output = base(**batch)
    if getattr(output, "last_hidden_state", None) is None:
        raise TypeError(f"{type(model).__name__} gives neither logits of tokens nor hidden states: it can't be healed.")
    return output.last_hidden_state


def _masked(ids: Tensor, mask_token_id: int, special_ids: list[int]) -> Tensor:
    noise = torch.Generator().manual_seed(0)
    hidden = torch.rand(ids.shape, generator=noise) < _MASKED_SHARE
    return ids.masked_fill(hidden & ~torch.isin(ids, torch.tensor(special_ids, dtype=ids.dtype)), mask_token_id)
