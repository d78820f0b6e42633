"""What a plan is expected to leave of the rows, before anything is trained. Beyond the paper."""

import torch
from torch import Tensor

from .low_rank import metric_root
from .reduction import add_exactly, rows_at_once
from .rows import unit_rows
from .share import RowShare
from .table_rows import TableRows, read_blocks
from .water_filling import component_rates, gaussian_distortion
from .whitening import bits_lost

# Share of its bits that a refined binary code makes use of: by the mean rate of the component that a bit belongs to, up
# to a limit, less what it loses where the standard deviation of these rates exceeds some bits. Fitted to
# tests/benchmarks/code_efficiency.py, to spectra from flat to steep and to SmolLM2's, whose shares it misses by 0.03 at
# most; it promises up to 0.18 too much where a component outweighs all others.
_AT_RATE_ZERO, _BY_MEAN, _MOST_EFFICIENCY = 0.515, 0.3, 0.83
_BY_DEVIATION, _HARMLESS_DEVIATION = 0.18, 0.78
_LEAST_EFFICIENCY = 0.5
_SHARES_OF_BITS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # a code is as good as any of fewer bits
# Share of a component's variance that int8 factors of a low-rank part leave: a uniform quantizer up to five standard
# deviations, 5**2 / (12 * 127**2).
_LOW_RANK_ERROR = 1.3e-4
_WHITENING_RANKS = (0, 4, 8, 16, 32, 64, 128)


def eigenvalues_and_norms(table: TableRows, metric: Tensor | None, share: RowShare) -> tuple[Tensor, Tensor]:
    """What a plan is chosen by, in one pass over the rows.

    Returns:
        Eigenvalues of the second moment of rows of unit norm, in the metric, (d,) float64 on the CPU, and the norms of
        the rows, (V,) float32, 1 for a row of zeros.
    """
    rows, dim = table.shape
    gram = torch.zeros(dim, dim, dtype=torch.float64, device=table.device)
    places = share.places(rows, table.device)
    norms = torch.ones(len(places), device=table.device)
    for place, block in read_blocks(table, places, rows_at_once(table.device)):
        units, lengths = unit_rows(block)
        norms[place] = torch.where(lengths > 0, lengths, 1.0).squeeze(1)
        add_exactly(gram, units.t() @ units)
    eigenvalues = eigenvalues_in(metric, share.reduce(gram))
    return eigenvalues, share.merge(norms)


def eigenvalues_in(metric: Tensor | None, gram: Tensor) -> Tensor:
    """Eigenvalues, (d,) float64 on the CPU, of rows^T rows, (d, d) float64, in a metric; None for the plain one."""
    if metric is not None:
        root = metric_root(metric.to(gram.device))
        gram = root.t() @ gram @ root
    return torch.linalg.eigvalsh(gram).clamp(min=0).cpu()


def predicted_error(eigenvalues: Tensor, code_bits: int) -> float:
    """Share of the energy that a refined code of `code_bits` bits is expected to leave."""
    fewer = (share * code_bits for share in _SHARES_OF_BITS)
    return gaussian_distortion(eigenvalues, max(code_efficiency(eigenvalues, bits) * bits for bits in fewer))


def code_efficiency(eigenvalues: Tensor, code_bits: float) -> float:
    """Share of its bits that a refined code of `code_bits` bits makes use of.

    Components that take far less than a bit each, or many bits each beside others that take few, are coded worse. Both
    show in the rates of reverse water-filling, each counted by the bits that it stands for.
    """
    rates = component_rates(eigenvalues, code_bits)
    if not bool(rates.any()):
        return _AT_RATE_ZERO
    of_bits = rates / rates.sum()
    mean = float(of_bits @ rates)
    deviation = float(of_bits @ (rates - mean).square()) ** 0.5
    efficiency = min(_AT_RATE_ZERO + _BY_MEAN * mean, _MOST_EFFICIENCY)
    return max(efficiency - _BY_DEVIATION * max(deviation - _HARMLESS_DEVIATION, 0.0), _LEAST_EFFICIENCY)


def spectrum_left(eigenvalues: Tensor, rank: int) -> Tensor:
    """Eigenvalues of the second moment of what a low-rank part leaves of the rows.

    Args:
        eigenvalues: (d,) of the rows.
        rank: k of the low-rank part.
    """
    left = eigenvalues.sort(descending=True).values
    left[:rank] *= _LOW_RANK_ERROR
    return left


def choose_whitening(metric: Tensor, num_embeddings: int) -> tuple[int, float]:
    """The rank of the map after which trellis tiers code, so that it pays for its bytes.

    Args:
        metric: (d, d) of the error.
        num_embeddings: rows of the table.

    Returns:
        The rank, and the bits a value that are lost all the same (see `whitening.bits_lost`).
    """
    eigenvalues, dim = torch.linalg.eigvalsh(metric.double().cpu()), metric.shape[0]
    lost = {rank: bits_lost(eigenvalues, rank) for rank in _WHITENING_RANKS if rank <= dim // 2}
    rank = min(lost, key=lambda tried: lost[tried] + 8 * tried * (dim + 2) / (num_embeddings * dim))
    return rank, lost[rank]
