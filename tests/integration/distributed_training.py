"""One process of a distributed run; started by test_distributed_training.py with torch.distributed.run."""

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.integration.test_training import KINDS, compressed, stored, trainer_of


def under_trainer(name: str, folder: Path) -> None:
    """Trains through Trainer; each process writes the table that it ends with, the first one saves the model."""
    folder.mkdir(exist_ok=True)
    model = compressed(name, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    options = {"per_device_train_batch_size": 2, "ddp_backend": "gloo", "save_strategy": "no"}
    trainer = trainer_of(model, folder / "run", KINDS[name], **options)
    trainer.train()
    trainer.save_model(str(folder / "export"))
    torch.save(stored(model), folder / f"rank{trainer.args.process_index}.pt")


def sharded(name: str, folder: Path) -> None:
    """Trains with FSDP2 at the root, gathers the state dict and saves it.

    By PyTorch's own means: on a CPU accelerate takes DistributedDataParallel whatever is asked for.
    """
    rank = distributed.get_rank()
    folder.mkdir(exist_ok=True)
    model = compressed(name, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    ids = torch.randint(4, 160, (4, 9), generator=torch.Generator().manual_seed(3))
    mine = ids[rank::2]
    labels = mine if KINDS[name] == "tokens" else mine[:, 0] % 2
    model.train()
    for _ in range(4):
        model(input_ids=mine, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        output = model(input_ids=ids).logits
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        model.save_pretrained(folder / "export", state_dict=state)
        torch.save(output, folder / "logits.pt")
    distributed.barrier()


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    for architecture in sys.argv[3:]:
        {"trainer": under_trainer, "sharded": sharded}[sys.argv[1]](architecture, Path(sys.argv[2]) / architecture)
    distributed.destroy_process_group()
