"""Hidden states times coded rows, without the rows: h . y = scale * (sum_j b_j (D h)_j + ...). Beyond the paper.

The decoder meets the hidden states instead of the rows. What is left of a row is a sum over the bytes of its code, each
looked up in a table of what its 256 values add: asymmetric distances, as in product quantization (Jegou et al. 2011).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .constants import constant, values_of_bytes
from .decode import (
    SIGNS,
    StoredTensors,
    leaning_of,
    low_rank_left,
    map_states,
    num_below,
    row_scales,
    stored_center,
    stored_matrix,
    tier_levels,
    tier_scales,
)
from .packing import align_rows
from .plan import CodingPlan
from .rotation import levels_of_bytes
from .tier import TierKind

_STATES_AT_ONCE = 64
"""Hidden states whose look-up tables are held together, few enough for a processor's cache."""
_FEWEST_STATES = 2
"""torch's embedding_bag is slow for rows of a single number."""
_UNPACKED_ROWS = 8192
_MOST_KEPT = 1 << 24
_FEWEST_ROWS = 1024


@dataclass(frozen=True)
class _Part:
    """What one stored part adds to the products with the rows that it covers, the first ones.

    Attributes:
        coverage: number of rows.
        products: (r,) int64 slots -> (r, n) float32.
    """

    coverage: int
    products: Callable[[Tensor], Tensor]


class TableProduct:
    """Products of some hidden states with any rows of a coded table.

    Args:
        plan: what is stored.
        stored: tensors by the names of `plan.tensor_specs()`; matrices and row scales may be given as the float32
            values that they stand for, which then get gradients.
        hidden: (n, d) float32.
    """

    def __init__(self, plan: CodingPlan, stored: StoredTensors, hidden: Tensor) -> None:
        self._plan, self._stored, self._hidden = plan, stored, hidden
        self._parts = list(self._coded_parts())
        self._standing: Tensor | None = None
        self._center = hidden @ stored_center(stored) if plan.centered else None  # (n,)

    @property
    def keeps_products(self) -> bool:
        """Whether the backward pass needs products of all rows, which row scales that train do."""
        return any(tensor.requires_grad for name, tensor in self._stored.items() if name.endswith("row_scale"))

    def columns(self, positions: Tensor) -> Tensor:
        """Products with the rows at some storage positions, in any order.

        Args:
            positions: (r,) int64.

        Returns:
            (n, r) float32.
        """
        rising, order = positions.sort()
        count = num_below(self._plan.num_exact, rising)
        exact = self._stored["exact_rows"].index_select(0, rising[:count]).float() @ self._hidden.t()
        coded = self._coded(rising[count:] - self._plan.num_exact)
        return torch.cat([exact, coded]).index_select(0, order.argsort()).t()

    def _coded(self, slots: Tensor) -> Tensor:
        """Products with coded rows, slots in rising order. (r, n) float32."""
        total = self._unscaled(slots)
        if not self._plan.row_scale_bits or not slots.numel():
            return total
        scales = row_scales(self._stored, "", slots, self._plan.row_scale_bits)  # (r, 1)
        total = total * scales
        return total if self._center is None else total + (scales > 0) * self._center

    def _unscaled(self, slots: Tensor) -> Tensor:
        """The same before row scales and the center."""
        plan, count = self._plan, num_below(self._plan.num_standing, slots)
        if count == slots.numel():
            return self._own(slots)
        leaning = leaning_of(plan, self._stored, slots[count:] - plan.num_standing)
        if self._keeps_standing(slots.numel()):
            if self._standing is None:
                self._standing = self._own(torch.arange(plan.num_standing, device=slots.device))  # (R, n)
            total = torch.cat([self._standing.index_select(0, slots[:count]), self._own(slots[count:])])
            total[count:] += self._standing.index_select(0, leaning.slots) * leaning.factors
            return total
        total = self._own(slots)
        standing, places = leaning.slots.unique(return_inverse=True)
        total[count:] += self._own(standing).index_select(0, places) * leaning.factors
        return total

    def _keeps_standing(self, rows: int) -> bool:
        """Whether products with the rows that others lean on are computed once for all: where many rows follow."""
        few = self._plan.num_standing * self._hidden.shape[0] <= _MOST_KEPT
        return few and not torch.is_grad_enabled() and (self._standing is not None or rows >= _FEWEST_ROWS)

    def _own(self, slots: Tensor) -> Tensor:
        """Products with what the codes of rows stand for, before row scales and what they lean on. (r, n) float32."""
        total = self._hidden.new_zeros(slots.numel(), self._hidden.shape[0])
        for part in self._parts:
            count = num_below(part.coverage, slots)
            if count:
                total[:count] += part.products(slots[:count])
        return total

    def _coded_parts(self) -> Iterator[_Part]:
        plan, stored, hidden = self._plan, self._stored, self._hidden
        if plan.rank:
            right = stored_matrix(stored, "low_rank_right") @ hidden.t()  # (k, n)
            yield _Part(plan.num_coded, lambda slots: low_rank_left(stored, slots) @ right)
        if plan.code_bits:
            yield self._signs("", plan.num_coded, plan.code_bits)
        mapped: dict[TierKind, Tensor] = {}
        for number, tier in plan.code_tiers:
            if tier.kind == "learnt":
                yield self._signs(f"tier_{number}_", tier.coverage, tier.code_bits)
                continue
            if tier.kind not in mapped:
                mapped[tier.kind] = map_states(plan, tier.kind, stored, hidden)
            yield self._levels(number, mapped[tier.kind])

    def _signs(self, prefix: str, coverage: int, bits: int) -> _Part:
        projected = self._hidden @ stored_matrix(self._stored, prefix + "decoder").t()  # (n, m)
        row_bytes = align_rows(self._stored[prefix + "codes"], coverage, bits)
        values = constant(values_of_bytes, SIGNS, device=projected.device)
        return _Part(coverage, lambda slots: sum_bytes(projected, row_bytes.index_select(0, slots), values))

    def _levels(self, number: int, mapped: Tensor) -> _Part:
        """A tier with fixed maps: a product with its rows is one of the mapped hidden states with their levels."""
        plan, stored, tier = self._plan, self._stored, self._plan.tiers[number - 1]
        bits = tier.code_bits // plan.embedding_dim
        by_bytes = tier.kind == "rotated" and 8 % bits == 0
        row_bytes = align_rows(stored[f"tier_{number}_codes"], tier.coverage, tier.code_bits) if by_bytes else None

        def products(slots: Tensor) -> Tensor:
            scales = tier_scales(plan, number, stored, slots)  # (r, 1)
            if row_bytes is not None:
                values = levels_of_bytes(bits, mapped.device)
                return sum_bytes(mapped, row_bytes.index_select(0, slots), values) * scales
            levels = partial(tier_levels, plan, number, stored)
            return _LevelProducts.apply(mapped, slots, levels) * scales  # pyright: ignore[reportOperatorIssue]

        return _Part(tier.coverage, products)


class _LevelProducts(torch.autograd.Function):
    """Products with the levels of rows, which are unpacked a block of rows at a time, and again for the gradient."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, slots: Tensor, levels: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.slots, ctx.levels = slots, levels
        return torch.cat([levels(block) @ states.t() for block in slots.split(_UNPACKED_ROWS)])  # (r, n)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        total: Tensor | None = None
        with torch.autocast(gradient.device.type, enabled=False):
            for block, part in zip(ctx.slots.split(_UNPACKED_ROWS), gradient.split(_UNPACKED_ROWS), strict=True):
                levels = ctx.levels(block)
                total = part.t() @ levels if total is None else total.addmm_(part.t(), levels)
        return total, None, None


def sum_bytes(states: Tensor, row_bytes: Tensor, values: Tensor) -> Tensor:
    """Sums, over the codes of each row, what a code stands for times a number of each state.

    Args:
        states: (n, m) float32.
        row_bytes: (r, b) uint8, the codes of m numbers; what is left in the last byte does not count.
        values: (256, c) float32, what the c codes in each byte stand for.

    Returns:
        (r, n) float32: sum over j < m of value[r, j] * states[n, j]. The states get gradients.
    """
    padding = row_bytes.shape[1] * values.shape[1] - states.shape[1]
    return _ByteSums.apply(functional.pad(states, (0, padding)), row_bytes, values)  # pyright: ignore[reportReturnType]


class _ByteSums(torch.autograd.Function):
    """Looks up what each byte adds; the backward pass unpacks the codes, a block of rows at a time."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, row_bytes: Tensor, values: Tensor) -> Tensor:
        ctx.row_bytes, ctx.values = row_bytes, values
        (rows, width), count = row_bytes.shape, states.shape[0]
        index = row_bytes.int() + 256 * torch.arange(width, dtype=torch.int32, device=row_bytes.device)  # (r, b)
        sums = states.new_empty(rows, count)
        for start in range(0, count, _STATES_AT_ONCE):
            part = states[start : start + _STATES_AT_ONCE]
            size = part.shape[0]
            table = _byte_table(functional.pad(part, (0, 0, 0, max(0, _FEWEST_STATES - size))), values)
            sums[:, start : start + size] = functional.embedding_bag(index, table, mode="sum")[:, :size]
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        row_bytes, values = ctx.row_bytes, ctx.values
        total = gradient.new_zeros(gradient.shape[1], row_bytes.shape[1] * values.shape[1])  # (n, m)
        blocks = zip(row_bytes.split(_UNPACKED_ROWS), gradient.split(_UNPACKED_ROWS), strict=True)
        with torch.autocast(gradient.device.type, enabled=False):
            for codes, part in blocks:
                total.addmm_(part.t(), functional.embedding(codes.int(), values).flatten(1))
        return total, None, None


def _byte_table(states: Tensor, values: Tensor) -> Tensor:
    """What each value of each byte adds to the sums of some states (n, b c): (b * 256, n)."""
    half = values.shape[1] // 2
    numbers = states.t().unflatten(0, (-1, values.shape[1]))  # (b, c, n)
    high = values[::16, :half] @ numbers[:, :half]  # (b, 16, n), of the byte's four high bits
    low = values[:16, half:] @ numbers[:, half:]
    return (high.unsqueeze(2) + low.unsqueeze(1)).flatten(0, 2)
