"""Codes whose first bits are good codes themselves, so that a table can be cut smaller later. Beyond the paper.

Each stage is first refined alone on what those before it left. Then all bits are refined together on the error of the
whole code and, with a small weight, on the errors of its prefixes, each prefix with its own best decoder. The stages
are a better start than one long code is, so nesting costs nothing at full size; a prefix alone stays within a tenth or
so of the error of a code made for its size.
"""

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from .initialize import initialize_codes
from .journal import NO_JOURNAL, Journal
from .packing import pack_bits, unpack_rows
from .reduction import RowSource
from .refine import Correlations, Refiner, RefineSchedule

# Weight of all prefixes' errors together beside that of the whole code's.
_PREFIX_WEIGHT = 0.8
_CUTS = 8
_LARGEST_FIRST_STAGE = 64


def halved_stages(code_bits: int) -> tuple[int, ...]:
    """Stages that double the code one after the other, so that it can be cut to a half, a quarter and so on.

    Args:
        code_bits: bits in all.

    Returns:
        Bits of each stage, the first at most 64.
    """
    if code_bits <= _LARGEST_FIRST_STAGE:
        return (code_bits,) if code_bits else ()
    return (*halved_stages(code_bits - code_bits // 2), code_bits // 2)


def encode_nested(
    refiner: Refiner,
    stage_bits: tuple[int, ...],
    decoder_dtype: str,
    schedule: RefineSchedule,
    start: Tensor | None = None,
    on_round: Callable[[int, float], None] | None = None,
    journal: Journal = NO_JOURNAL,
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes rows in nested stages.

    Args:
        refiner: holds the rows.
        stage_bits: bits of each stage.
        decoder_dtype: how the decoder is stored.
        schedule: of the refinement.
        start: (n, up to m) bool codes to refine; stages fitted in closed form and refined one by one when None.
        on_round: told the number of each finished round, and the share of the rows' energy that is left.
        journal: remembers the codes of finished rounds, which are all that the further ones depend on.

    Returns:
        Codes (n, m) bool, stored decoder (m, d) and bits of its scales (m,).
    """
    finished, codes = _begun(journal, refiner.targets, start)

    def report(found: Correlations) -> None:
        nonlocal finished
        finished += 1
        journal.save("refinement", finished, {"codes": pack_bits(codes), "bits": torch.tensor(codes.shape[1])})
        if on_round is not None:
            on_round(finished - 1, refiner.relative_error(found))

    rounds_before = 0
    if start is None:
        for first_bit, bits in zip(accumulate((0, *stage_bits[:-1])), stage_bits, strict=True):
            if codes.shape[1] == first_bit:
                codes = initialize_codes(refiner, first_bit + bits, codes)
            if finished < rounds_before + schedule.stage_rounds:
                begun = max(0, finished - rounds_before)
                refiner.anneal(codes, schedule.of_one_stage, first_bit, on_round=report, first_round=begun)
            rounds_before += schedule.stage_rounds
    codes = initialize_codes(refiner, sum(stage_bits), codes)
    prefixes = prefix_weights(stage_bits)
    found = refiner.anneal(codes, schedule, prefixes=prefixes, on_round=report, first_round=finished - rounds_before)
    return codes, *refiner.finish(codes, found, decoder_dtype, schedule, prefixes=prefixes)


def _begun(journal: Journal, rows: RowSource, start: Tensor | None) -> tuple[int, Tensor]:
    """Rounds that are finished, and the codes after them."""
    found = journal.load("refinement")
    if found is not None:
        slots = torch.arange(len(rows), device=rows.device)
        codes = unpack_rows(found.tensors["codes"].to(rows.device), slots, int(found.tensors["bits"])).bool()
        return found.step, codes
    return 0, torch.zeros(len(rows), 0, dtype=torch.bool, device=rows.device) if start is None else start


def num_rounds(stage_bits: tuple[int, ...], schedule: RefineSchedule, from_nothing: bool) -> int:
    """Rounds of refinement that `encode_nested` makes."""
    return schedule.rounds + from_nothing * len(stage_bits) * schedule.stage_rounds


def prefix_weights(stage_bits: tuple[int, ...]) -> dict[int, float]:
    """Numbers of bits at which a code may be cut, with the weight of the error there: longer ones weigh more.

    Besides the ends of the stages these are the eighths of the code, so that it can be cut inside long stages too.
    """
    bits = sum(stage_bits)
    cuts = {*accumulate(stage_bits), *(bits * part // _CUTS for part in range(_CUTS))} - {0, bits}
    return {cut: _PREFIX_WEIGHT * cut / sum(cuts) for cut in sorted(cuts)}
