"""Rows coded relative to their norm, and the row scales that undo it. Beyond the paper."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .packing import bfloat16_of_bits, bits_of_bfloat16, bits_of_float32, float32_of_bits
from .plan import CodingPlan
from .reduction import rows_at_once
from .share import ALL_ROWS, RowShare
from .table_rows import TableRows, read_blocks

# lambda of a head's row scales: 3 to 9 do about as well (see tests/benchmarks/metric_choice.py).
_SHRINKAGE_PENALTY = 4.0
_LEAST_SCALE = 2.0**-10


@dataclass(frozen=True)
class DividedRows:
    """Rows of a table, divided when they are asked for.

    Attributes:
        table: holds the rows.
        ids: (n,) int64 of them, on the CPU.
        divisors: (n, 1) float32.
    """

    table: TableRows
    ids: Tensor
    divisors: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return len(self.ids), self.table.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.table.device

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ids)

    def __getitem__(self, place: slice) -> Tensor:
        """Some of the rows, (n, d) float32."""
        ids, divisors = self.ids[place], self.divisors[place]
        rows = torch.empty(len(ids), self.shape[1], device=self.device)
        for part, read in read_blocks(self.table, ids, rows_at_once(self.device)):
            torch.div(read, divisors[part], out=rows[part])
        return rows

    def take(self, places: Tensor) -> Tensor:
        """Rows in any order, (n, d) float32."""
        return DividedRows(self.table, self.ids[places.to(self.ids.device)], self.divisors[places])[:]


def normalized_rows(
    table: TableRows,
    ids: Tensor,
    per_row: bool,
    share: RowShare = ALL_ROWS,
    copied: bool = True,
    divisors: Tensor | None = None,
) -> tuple[Tensor | DividedRows, float]:
    """Rows to code: divided by their own norms, or all by the power of two at or above the largest norm.

    Args:
        table: holds the rows.
        ids: (n,) int64 of this process's rows, on the CPU.
        per_row: whether each row is divided by its own norm; rows of zeros stay.
        share: which of all rows these are.
        copied: whether the rows are wanted in a tensor of their own, or are made when they are asked for.
        divisors: (V,) of all rows of the table, used in the place of norms where they are not zero.

    Returns:
        The rows, (n, d) float32 of norms at most 1, and the common divisor, 1 when each row has its own.
    """
    given = None if divisors is None else divisors[ids.to(divisors.device)].unsqueeze(1)
    divisors = torch.empty(ids.numel(), 1, device=table.device)
    copy = torch.empty(ids.numel(), table.shape[1], device=table.device) if copied else None
    for place, rows in read_blocks(table, ids, rows_at_once(table.device)):
        divisors[place] = safe_norms(rows)
        if copy is not None:
            copy[place] = rows
    common = 1.0
    if per_row:
        divisors = divisors if given is None else torch.where(given > 0, given, divisors)
        divisors = torch.where(divisors > 0, divisors, 1.0)
    else:
        common = power_of_two_above(share.largest(float(divisors.max()) if divisors.numel() else 0.0))
        divisors.fill_(common)
    return DividedRows(table, ids, divisors) if copy is None else copy.div_(divisors), common


def divided_rows(table: TableRows, ids: Tensor, divisors: Tensor | None = None) -> DividedRows:
    """Rows divided by their own norms, or by what is given, when they are asked for (see `normalized_rows`)."""
    rows, _ = normalized_rows(table, ids, per_row=True, copied=False, divisors=divisors)
    if isinstance(rows, Tensor):
        raise TypeError("rows that are not copied are no tensor.")
    return rows


def restore_scales(stored: dict[str, Tensor], common: float) -> None:
    """Multiplies the stored decoders and tiers by the common divisor of all rows, a power of two, exactly."""
    if common == 1.0:
        return
    for name in [name for name in stored if name.endswith("row_scale_range")]:
        limits = float32_of_bits(stored[name])  # log2 of the lowest scale, and of the step
        stored[name] = bits_of_float32(limits + torch.tensor([math.log2(common), 0.0], device=limits.device))
    for name in [name for name in stored if name.endswith("_scale") and stored[name].dtype == torch.int16]:
        if name not in ("low_rank_left_scale", "whitening_scale"):  # the right factor carries the factor of the product
            stored[name] = bits_of_bfloat16(bfloat16_of_bits(stored[name]) * common)


def power_of_two_above(value: float) -> float:
    """The power of two at or above a value >= 0, which is taken for at least 1e-30."""
    return float(2.0 ** torch.tensor(max(value, 1e-30)).log2().ceil())


def unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, d) divided by their norms, and the norms, (n, 1); rows of zeros stay."""
    norms = safe_norms(rows)
    return rows / torch.where(norms > 0, norms, 1.0), norms


def safe_norms(rows: Tensor) -> Tensor:
    """Norms whose squares neither overflow nor underflow. (n, 1)."""
    peaks = rows.abs().amax(dim=1, keepdim=True)
    return peaks * (rows / torch.where(peaks > 0, peaks, 1.0)).norm(dim=1, keepdim=True)


def fit_row_scales(
    table: TableRows,
    ids: Tensor,
    plan: CodingPlan,
    decode: Callable[[Tensor], Tensor],
    metric: Tensor | None,
    head_covariance: Tensor | None = None,
) -> Tensor:
    """Scale s >= 0 of each row, for the least |x - s y|^2 / |x|^2 + lambda (x^T C (x - s y) / x^T C x)^2.

    |x|^2 is x^T M x. Without a head this is the least-squares scale x^T M y / y^T M y, which shrinks a row in its own
    direction by its share of error D. In an output head that costs more than the same error elsewhere: where tokens are
    predicted with probabilities proportional to exp(h . x), hidden states h of covariance C lie about C x from their
    mean where the token of x is predicted, so that its logit is wrong by x^T C (x - s y) on the average, several nats
    for rare tokens. The penalty weighs that; with M = C the factor on the least-squares scale is
    (1 + lambda) / (1 + lambda (1 - D)).

    Args:
        table: holds the rows x.
        ids: (n,) int64 of the coded rows in storage order, on the CPU.
        plan: what is stored of these rows.
        decode: of slots (n,) in rising order, gives y without the row scale, (n, d) float32.
        metric: (d, d) M; None for the plain one.
        head_covariance: (d, d) C, up to a factor; None for rows that are no head's.

    Returns:
        (n,) float32.
    """
    scales = torch.empty(ids.numel(), device=table.device)
    slots = torch.arange(ids.numel(), device=table.device)
    for place, rows in read_blocks(table, ids, rows_at_once(table.device)):
        rows, norms = unit_rows(rows)
        decoded = decode(slots[place])
        weighted = decoded if metric is None else decoded @ metric
        energy = (weighted * decoded).sum(dim=1)
        product = (weighted * rows).sum(dim=1)
        if head_covariance is not None:
            length = ((rows if metric is None else rows @ metric) * rows).sum(dim=1)
            called_for = rows @ head_covariance
            own = (called_for * rows).sum(dim=1)
            kept = torch.where(own > 0, (called_for * decoded).sum(dim=1) / own, 0.0)  # of the row in y
            energy = energy + _SHRINKAGE_PENALTY * length * kept.square()
            product = product + _SHRINKAGE_PENALTY * length * kept
        fitted = product / torch.where(energy > 0, energy, 1.0)
        least = _LEAST_SCALE if plan.centered else 0.0  # a scale of zero would take the center away
        scales[place] = torch.where(energy > 0, fitted, 0.0).clamp(min=least) * norms.squeeze(1)
    return scales
