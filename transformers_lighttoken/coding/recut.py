"""A smaller table from a coded one: the first bits of its base code stay as they are. Beyond the paper."""

import torch
from torch import Tensor

from .packing import unpack_rows
from .plan import CodingPlan
from .table import CompressedTable
from .tier_index import storage_order


def first_bits(table: CompressedTable, plan: CodingPlan, depths: Tensor) -> Tensor:
    """The first bits of a table's base code, in the order in which a smaller plan stores the rows.

    Rows that are exact in the table have no code: their bits are zero, for a sweep to set.

    Args:
        table: whose code is cut.
        plan: of the smaller table.
        depths: (V,) depth of each row in the smaller table (see `tier_index`).

    Returns:
        (plan.num_coded, m) bool on the table's device; m is the smaller of both plans' code bits.
    """
    ids = storage_order(depths.cpu())[plan.num_exact :].to(table.positions.device)
    slots = table.positions[ids].long() - table.plan.num_exact
    kept = min(plan.code_bits, table.plan.code_bits)
    codes = torch.zeros(plan.num_coded, kept, dtype=torch.bool, device=slots.device)
    coded = slots >= 0
    if kept and bool(coded.any()):
        codes[coded] = unpack_rows(table.tensors["codes"], slots[coded], table.plan.code_bits)[:, :kept].bool()
    return codes
