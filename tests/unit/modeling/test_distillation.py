"""What the optimizer of healing does with row scales."""

import torch
from torch import nn
from transformers import TrainingArguments

from transformers_lighttoken.modeling.distillation import DistillationTrainer


class TwoRows(nn.Module):
    """Latents of two rows, by the names that a table gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.row_scale = nn.Parameter(torch.zeros(2))
        self.decoder = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)


def test_scales_of_rows_that_hardly_matter_stay_where_they_are(tmp_path):
    model: nn.Module = TwoRows()
    arguments = TrainingArguments(str(tmp_path), learning_rate=0.01, weight_decay=0.5, report_to=[], use_cpu=True)
    trainer = DistillationTrainer(model, arguments, teacher=nn.Module())  # pyright: ignore[reportArgumentType]
    optimizer = trainer.create_optimizer()
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    for name in ("row_scale", "decoder"):
        model.get_parameter(name).grad = torch.tensor([1e-6, 1e-2])
    optimizer.step()
    scales = torch.tensor([1e-6 / (1e-6 + 3e-4), 1e-2 / (1e-2 + 3e-4)]) * -0.003
    torch.testing.assert_close(model.get_parameter("row_scale").detach(), scales, rtol=1e-4, atol=0)
    torch.testing.assert_close(model.get_parameter("decoder").detach(), torch.full((2,), -0.01), rtol=0.02, atol=0)
    assert trainer.create_optimizer() is optimizer
