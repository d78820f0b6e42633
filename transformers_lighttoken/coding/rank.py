"""The rank of the low-rank part. Beyond the paper."""

from dataclasses import replace

from .allocation import plan_full_tiers
from .budget import BudgetError
from .prediction import spectrum_left
from .tier_request import TierRequest

# A low-rank part is promised too much: for 256 Gaussian columns at 25x, whose variances fall as the power of 1.5, 6 %
# less error, and it has 1 % more; at a power of 2, 20 % for 5 %.
_SHARE_TO_PAY = 0.9


def choose_rank(request: TierRequest) -> int:
    """The rank of the least predicted error at the byte budget, with equal coverage: 0 or a power of two.

    A low-rank part spends a byte a row on each component, a code what reverse water-filling gives it; so it pays only
    where a few components outweigh all others by far.

    Args:
        request: what is planned for, with the eigenvalues of the rows before a low-rank part is taken from them.
    """
    errors: dict[int, float] = {}
    for rank in (0, *(2**power for power in range(request.template.embedding_dim.bit_length() - 1))):
        left = spectrum_left(request.eigenvalues, rank)
        template = replace(request.template, rank=rank)
        try:
            planned = plan_full_tiers(replace(request, template=template, eigenvalues=left), in_part=False)
        except BudgetError:
            break
        errors[rank] = float(left.sum()) * planned.loss
    best = min(errors, key=lambda rank: errors[rank], default=0)
    return best if best and errors[best] < _SHARE_TO_PAY * errors[0] else 0
