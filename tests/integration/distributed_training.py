"""One process of a distributed run; started by test_distributed_training.py with torch.distributed.run."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin

from tests.integration.test_training import KINDS, compressed, stored, trainer_of


def under_trainer(name: str, folder: Path) -> None:
    """Trains through Trainer; each process writes the table that it ends with, the first one saves the model."""
    model = compressed(name, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    options = {"per_device_train_batch_size": 2, "ddp_backend": "gloo", "save_strategy": "no"}
    trainer = trainer_of(model, folder / "run", KINDS[name], **options)
    trainer.train()
    trainer.save_model(str(folder / "export"))
    torch.save(stored(model), folder / f"rank{trainer.args.process_index}.pt")


def sharded(name: str, folder: Path) -> None:
    """Trains with FSDP2 at the root, gathers the state dict and saves it."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True)
    accelerator = Accelerator(fsdp_plugin=plugin, cpu=True)
    model = compressed(name, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer = accelerator.prepare(model, optimizer)
    ids = torch.randint(4, 160, (4, 9), generator=torch.Generator().manual_seed(3))
    mine = ids[accelerator.process_index :: 2]
    labels = mine if KINDS[name] == "tokens" else mine[:, 0] % 2
    model.train()
    for _ in range(4):
        accelerator.backward(model(input_ids=mine, labels=labels).loss)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        output = model(input_ids=ids).logits
    state = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        model.save_pretrained(folder / "export", state_dict=state)
        torch.save(output, folder / "logits.pt")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    {"trainer": under_trainer, "sharded": sharded}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
