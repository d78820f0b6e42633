"""Linear autoencoder that weighs the direction of rows: Balazy et al. 2021, "Direction is what you need".

Klaudia Balazy, Mohammadreza Banaei, Remi Lebret, Jacek Tabor, Karl Aberer, RepL4NLP 2021, pp. 322-330,
doi 10.18653/v1/2021.repl4nlp-1.32.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .baseline import Size, store
from .svd import RankBaseline, root_mean_square, svd_factors

COSINE_SHARE = 0.9
"""Share of the cosine distance in the loss; the Euclidean distance has the rest."""
EPOCHS = 10
BATCH_ROWS = 256
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class DirectionAutoencoder(RankBaseline):
    """Latents (V, k), a decoder (k, d) and its bias (d,); the encoder is not stored."""

    def stored_bytes(self, num_rows: int, dim: int, size: Size) -> int:
        """Counts k (V + d) + d numbers."""
        return (size["rank"] * (num_rows + dim) + dim) * self.dtype.itemsize

    def reconstruct(self, weight: Tensor, size: Size, seed: int) -> Tensor:
        """Trains encoder and decoder from the SVD and decodes the rounded latents."""
        scale = root_mean_square(weight)
        rows = weight / scale  # (V, d)
        encoder, decoder = _train(rows, size["rank"], seed)
        with torch.no_grad():
            latents = store(encoder(rows), self.dtype)  # (V, k)
            matrix = store(decoder.weight.t() * scale, self.dtype)  # (k, d)
            bias = store(decoder.bias * scale, self.dtype)  # (d,)
            return latents @ matrix + bias


def direction_loss(rows: Tensor, decoded: Tensor) -> Tensor:
    """Euclidean and cosine distance, blended: (1 - c) RMSE(x, y) + c mean(1 - cos(x, y)), c = COSINE_SHARE.

    The paper adds the two with weights. Here rows have a root mean square of about 1, so that the weights mean the
    same for every table.

    Args:
        rows: (n, d) float32.
        decoded: (n, d) float32.
    """
    euclidean = ((rows - decoded).square().mean() + torch.finfo(rows.dtype).tiny).sqrt()
    cosine = (1 - F.cosine_similarity(rows, decoded, dim=1)).mean()
    return (1 - COSINE_SHARE) * euclidean + COSINE_SHARE * cosine


def _train(rows: Tensor, rank: int, seed: int) -> tuple[nn.Linear, nn.Linear]:
    _, right = svd_factors(rows, rank)  # (k, d)
    encoder, decoder = _linear(right), _linear(right.t())
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    shuffle = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(rows), generator=shuffle).split(BATCH_ROWS):
                chosen = rows[batch.to(rows.device)]  # (n, d)
                loss = direction_loss(chosen, decoder(encoder(chosen)))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    return encoder, decoder


def _linear(weight: Tensor) -> nn.Linear:
    """A linear layer that starts as x -> weight x."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight.clone())
    layer.bias = nn.Parameter(weight.new_zeros(weight.shape[0]))
    return layer
