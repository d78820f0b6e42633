"""Plans what to store for a byte budget; the Gaussian limit."""

from collections.abc import Callable
from dataclasses import replace

from .plan import CodingPlan

_DEFAULT_STAGE_BITS = 64
StageSplit = Callable[[int], tuple[int, ...]]
"""Splits code bits over stages."""


class BudgetError(ValueError):
    """No plan fits what was asked; the message names the nearest that does."""


def even_stages(code_bits: int, num_stages: int | None = None) -> tuple[int, ...]:
    """Splits code bits over stages as evenly as possible, the larger ones first.

    Args:
        code_bits: bits in all.
        num_stages: how many; None makes stages of about 64 bits, two at least: a residual code has something to refine.

    Raises:
        BudgetError: if there are more stages than bits.
    """
    if code_bits == 0:
        return ()
    stages = num_stages or max(min(2, code_bits), round(code_bits / _DEFAULT_STAGE_BITS))
    if stages > code_bits:
        raise BudgetError(f"num_stages must be at most code_bits {code_bits}, got {stages}: each stage has a bit.")
    smaller, larger_stages = divmod(code_bits, stages)
    return tuple(smaller + (1 if stage < larger_stages else 0) for stage in range(stages))


def byte_budget(num_embeddings: int, embedding_dim: int, ratio: float) -> int:
    """Most bytes that keep 4 V d / bytes at or above the ratio."""
    return int(4 * num_embeddings * embedding_dim / ratio)


def largest_fitting(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """Largest integer in [low, high] that fits, by bisection; None if `low` does not. `fits` must be monotonic."""
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def plan_equal(
    template: CodingPlan, ratio: float, code_bits: int | None = None, split: StageSplit = even_stages
) -> CodingPlan:
    """Gives the base code every byte that the rest of the plan leaves: equal coverage, as in Wang et al. 2023.

    Args:
        template: everything but the stages of the base code.
        ratio: least compression ratio; ignored where `code_bits` is given.
        code_bits: explicit bits of the base code.
        split: of the base code's bits over stages.

    Returns:
        The largest plan that fits.

    Raises:
        BudgetError: if none fits, or the plan is no smaller than the dense table; names the nearest possible value.
    """

    def with_bits(bits: int) -> CodingPlan:
        return replace(template, stage_bits=(bits,) if bits else ())

    if code_bits is None:
        budget = byte_budget(template.num_embeddings, template.embedding_dim, ratio)
        code_bits = largest_fitting(1, 32 * template.embedding_dim, lambda bits: with_bits(bits).stored_bytes <= budget)
        if code_bits is None:
            smallest = with_bits(1)
            raise BudgetError(
                f"compression_ratio {ratio:g} leaves {budget} bytes, but this table of {template.num_embeddings} x "
                f"{template.embedding_dim} needs at least {smallest.stored_bytes} bytes (rank {template.rank}, "
                f"{template.num_exact} exact rows, 1 code bit): ask for at most {_round_down(smallest.ratio)}."
            )
    plan = replace(template, stage_bits=split(code_bits))
    if plan.stored_bytes >= plan.dense_bytes:
        most = largest_fitting(0, code_bits, lambda bits: with_bits(bits).stored_bytes < plan.dense_bytes)
        hint = f"ask for code_bits of at most {most}" if most else "leave this table dense"
        raise BudgetError(
            f"code_bits {code_bits} with rank {plan.rank} needs {plan.stored_bytes} bytes, not less than the dense "
            f"table's {plan.dense_bytes}: {hint}."
        )
    if not plan.code_bits and not plan.rank:
        raise BudgetError("code_bits and rank are both 0: nothing would be stored. Give one of them.")
    plan.validate()
    return plan


def _round_down(ratio: float) -> str:
    return f"{int(ratio * 100) / 100:g}"
