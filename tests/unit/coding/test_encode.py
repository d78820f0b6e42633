from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from tests.thread_processes import in_processes
from tests.unit.coding.test_trellis import slow_levels
from transformers_lighttoken.coding.decode import decode_unscaled
from transformers_lighttoken.coding.encode import EncodeOptions, encode
from transformers_lighttoken.coding.plan import CodingPlan, Tier
from transformers_lighttoken.coding.refine import RefineSchedule
from transformers_lighttoken.coding.rotation import gaussian_levels, rotate
from transformers_lighttoken.coding.rows import fit_row_scales
from transformers_lighttoken.coding.table import CompressedTable, digest_of
from transformers_lighttoken.coding.table_rows import DenseRows, as_rows
from transformers_lighttoken.coding.tier_index import decode_depths, encode_depths, storage_order

ROWS, DIM = 600, 24
QUICK = EncodeOptions(schedule=RefineSchedule(rounds=4))


def weight(rows=ROWS, dim=DIM, seed=0):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, dim, generator=generator) * torch.linspace(1.5, 0.2, dim)
    return matrix * (0.5 + torch.rand(rows, 1, generator=generator))


def tiered_plan(**changes):
    depths = torch.zeros(ROWS, dtype=torch.long)
    depths[:200] = 1
    depths[30:150] = 2
    depths[50:120] = 3
    depths[60:80] = 4
    depths[[0, 599]] = 5
    plan = CodingPlan(
        num_embeddings=ROWS, embedding_dim=DIM, rank=2, stage_bits=(9, 8),
        tiers=(
            Tier(199, "learnt", 13, 0), Tier(120, "rotated", 2 * DIM, 8), Tier(70, "trellis", DIM, 8),
            Tier(20, "trellis", (DIM + 1) // 2, 4),
        ),
        num_exact=2, index_bytes=encode_depths(depths, 5).numel(), whitening_rank=2,
    )  # fmt: skip
    return replace(plan, **changes), depths


def relative_error(table, dense):
    return float((table.decode_all() - dense).square().sum() / dense.square().sum())


def oracle_decode(table):
    """Row by row and bit by bit, in float64."""
    plan, stored = table.plan, {name: tensor.numpy() for name, tensor in table.tensors.items()}

    def real(name):
        scale = torch.from_numpy(stored[name + "_scale"]).view(torch.bfloat16).double().numpy()
        return stored[name].astype(np.float64) * scale[:, None]

    def scale_of(prefix, slot, bits):
        raw = np.unpackbits(stored[prefix + "row_scale"])[slot * bits : (slot + 1) * bits]
        code = int("".join(map(str, raw)), 2)
        lowest, step = stored[prefix + "row_scale_range"].view(np.float32)
        return 2.0 ** (float(lowest) + float(step) * (code - 1)) if code else 0.0

    def signs(name, slot, bits):
        return np.unpackbits(stored[name])[slot * bits : (slot + 1) * bits] * 2.0 - 1.0

    depths = decode_depths(table.tensors["tier_index"], plan.num_embeddings, plan.max_depth)
    rows = np.zeros((plan.num_embeddings, plan.embedding_dim))
    for position, row in enumerate(storage_order(depths).tolist()):
        slot = position - plan.num_exact
        if slot < 0:
            rows[row] = stored["exact_rows"][position]
            continue
        value = real("low_rank_left")[:, slot] @ real("low_rank_right")
        value += signs("codes", slot, plan.code_bits) @ real("decoder")
        back = np.linalg.inv(rotate(torch.eye(DIM, dtype=torch.float64), plan.rotation_seed).numpy())
        unwhiten = np.eye(DIM) - real("whitening").T @ real("whitening")
        if slot < plan.tiers[0].coverage:
            value += signs("tier_1_codes", slot, plan.tiers[0].code_bits) @ real("tier_1_decoder")
        if slot < plan.tiers[1].coverage:
            pairs = np.unpackbits(stored["tier_2_codes"])[slot * 2 * DIM : (slot + 1) * 2 * DIM].reshape(DIM, 2)
            levels = gaussian_levels(2).double().numpy()[pairs[:, 0] * 2 + pairs[:, 1]]
            value += scale_of("tier_2_", slot, 8) * (levels @ back)
        for number, width in ((3, 1), (4, 2)):
            if slot < plan.tiers[number - 1].coverage:
                bits = plan.tiers[number - 1].code_bits
                code = np.unpackbits(stored[f"tier_{number}_codes"])[slot * bits : (slot + 1) * bits]
                if plan.tiers[number - 1].row_scale_bits:
                    scale = scale_of(f"tier_{number}_", slot, plan.tiers[number - 1].row_scale_bits)
                else:  # what the tier before leaves in rows of 24 values
                    scale = scale_of("tier_3_", slot, 8) * np.sqrt(0.3367)
                value += scale * (slow_levels(code, width)[:DIM] @ back @ unwhiten)
        rows[row] = value * scale_of("", slot, plan.row_scale_bits)
    return rows


@pytest.mark.parametrize("last_scale_bits", [4, 0])
def test_decoding_is_the_oracles_with_every_part_in_use(last_scale_bits):
    plan, depths = tiered_plan()
    plan = replace(plan, tiers=(*plan.tiers[:3], replace(plan.tiers[3], row_scale_bits=last_scale_bits)))
    table = encode(weight(), plan, depths, options=QUICK)
    np.testing.assert_allclose(table.decode_all().numpy(), oracle_decode(table), atol=2e-5)


def test_what_is_stored_is_what_was_planned():
    plan, depths = tiered_plan()
    table = encode(weight(), plan, depths, options=QUICK)
    assert {name: tuple(tensor.shape) for name, tensor in table.tensors.items()} == {
        name: spec.shape for name, spec in plan.tensor_specs().items()
    }
    assert sum(tensor.numel() * tensor.element_size() for tensor in table.tensors.values()) == plan.stored_bytes


def test_exact_rows_are_exact_and_tiers_help_their_rows():
    plan, depths = tiered_plan()
    dense = weight()
    table = encode(dense, plan, depths, options=QUICK)
    decoded = table.decode_all()
    assert torch.equal(decoded[[0, 599]], dense[[0, 599]])
    error = (decoded - dense).square().sum(dim=1) / dense.square().sum(dim=1)
    by_depth = [float(error[depths == depth].mean()) for depth in range(3)]
    assert by_depth[2] < 0.3 * by_depth[1] < 0.3 * 0.7 * by_depth[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sources(dtype):
    plan, depths = tiered_plan(exact_dtype=str(dtype).removeprefix("torch."))
    dense = weight().to(dtype)
    table = encode(dense, plan, depths, options=QUICK)
    assert table.tensors["exact_rows"].dtype == dtype
    assert relative_error(table, dense.float()) == pytest.approx(
        relative_error(encode(dense.float(), tiered_plan()[0], depths, options=QUICK), dense.float()), rel=0.05
    )


def test_refined_beats_paper_and_paper_beats_its_low_rank_part_alone():
    dense = weight(3000)
    base = CodingPlan(3000, DIM, rank=2, stage_bits=(16, 16), row_scale_bits=0)
    low_rank_only = relative_error(encode(dense, replace(base, stage_bits=())), dense)
    paper = relative_error(encode(dense, base, options=EncodeOptions(solver="paper")), dense)
    refined = relative_error(encode(dense, base), dense)
    assert refined < 0.85 * paper < 0.85 * 0.6 * low_rank_only


def test_refinement_may_start_from_the_trained_autoencoder():
    dense = weight(2000)
    plan = CodingPlan(2000, DIM, stage_bits=(12, 12))
    paper = relative_error(encode(dense, plan, options=EncodeOptions(solver="paper")), dense)
    warm = relative_error(encode(dense, plan, options=EncodeOptions(warm_start="autoencoder")), dense)
    assert warm < 0.95 * paper


def test_more_stages_leave_less():
    dense = weight(2000)
    options = EncodeOptions(solver="paper")
    found = [
        relative_error(encode(dense, CodingPlan(2000, DIM, stage_bits=(12,) * n), options=options), dense)
        for n in (1, 2, 3)
    ]
    assert found[2] < 0.8 * found[1] < 0.8 * 0.8 * found[0]


@pytest.mark.parametrize("magnitude", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("row_scale_bits", [0, 4, 8])
def test_the_error_does_not_depend_on_the_table_s_unit(magnitude, row_scale_bits):
    plan = CodingPlan(ROWS, DIM, rank=1, stage_bits=(30,), row_scale_bits=row_scale_bits)
    table = encode(weight() * magnitude, plan, options=QUICK)
    unit = encode(weight(), plan, options=QUICK)
    assert relative_error(table, weight() * magnitude) == pytest.approx(relative_error(unit, weight()), rel=0.05)


def test_zero_rows_decode_to_zero():
    dense = weight()
    dense[[3, 77]] = 0
    table = encode(dense, CodingPlan(ROWS, DIM, stage_bits=(20,)), options=QUICK)
    assert torch.equal(table.decode(torch.tensor([3, 77])), torch.zeros(2, DIM))


@pytest.mark.parametrize("measured", [False, True])
def test_row_scales_of_a_head_are_the_least_of_their_penalty(measured):
    rows, plan = weight(), CodingPlan(ROWS, DIM, stage_bits=(9, 8))
    roots = torch.randn(2, DIM, DIM, generator=torch.Generator().manual_seed(1))
    metric, covariance = roots @ roots.transpose(1, 2) / DIM
    table, ids = encode(rows, plan, None, metric if measured else None, QUICK), torch.arange(ROWS)
    weighing = metric.double().numpy() if measured else np.eye(DIM)
    decode = partial(decode_unscaled, plan, table.tensors)
    scales = fit_row_scales(as_rows(rows), ids, plan, decode, metric if measured else None, covariance)
    scales = scales.double().numpy()
    targets = rows.double().numpy()
    codes = decode_unscaled(plan, table.tensors, ids).double().numpy()

    def penalised(scale):
        wrong = targets - scale[:, None] * codes
        error = np.einsum("ni,ij,nj->n", wrong, weighing, wrong)
        shrunk = np.einsum("ni,ij,nj->n", targets, covariance.double().numpy(), wrong)
        own = np.einsum("ni,ij,nj->n", targets, covariance.double().numpy(), targets)
        return error / np.einsum("ni,ij,nj->n", targets, weighing, targets) + 4 * (shrunk / own) ** 2

    assert (penalised(scales) <= penalised(scales * 1.001)).all()
    assert (penalised(scales) <= penalised(scales * 0.999)).all()


def test_a_head_of_the_same_metric_undoes_the_shrinkage_of_least_squares():
    rows, plan, ids = weight(), CodingPlan(ROWS, DIM, stage_bits=(9, 8)), torch.arange(ROWS)
    table = encode(rows, plan, options=QUICK)
    decode = partial(decode_unscaled, plan, table.tensors)
    plain = fit_row_scales(as_rows(rows), ids, plan, decode, None)
    scales = fit_row_scales(as_rows(rows), ids, plan, decode, None, torch.eye(DIM) * 7)
    left = rows - plain.unsqueeze(1) * decode_unscaled(plan, table.tensors, ids)
    share = left.square().sum(1) / rows.square().sum(1)
    torch.testing.assert_close(scales / plain, 5 / (5 - 4 * share), rtol=1e-4, atol=0)
    options = replace(QUICK, head_covariance=torch.eye(DIM))
    assert not torch.equal(encode(rows, plan, options=options).tensors["row_scale"], table.tensors["row_scale"])


def test_the_same_seed_gives_the_same_bytes():
    plan, depths = tiered_plan()
    digests = {encode(weight(), plan, depths, options=QUICK).digest() for _ in range(2)}
    assert len(digests) == 1
    assert digest_of({}) not in digests


class RowsOfAFile(DenseRows):
    @property
    def in_memory(self):
        return False


def digests_of_processes(count, *given, **options):
    tables = in_processes(count, lambda share: encode(*given, options=replace(QUICK, share=share, **options)))
    return [table.digest() for table in tables]


def one_tier_of_a_quarter(**changes):
    """All that the tier covers are of the first block of rows."""
    depths = (torch.arange(5000) % 4 == 1).long()
    plan = CodingPlan(
        num_embeddings=5000, embedding_dim=13, stage_bits=(7,), tiers=(Tier(1250, "trellis", 7, 8),),
        index_bytes=encode_depths(depths, 1).numel(),
    )  # fmt: skip
    return replace(plan, **changes), depths


@pytest.mark.parametrize("changes", [{"centered": True}, {"rank": 2}, {"row_scale_bits": 0}])
def test_processes_without_rows_help_with_nothing(changes):
    dense = weight(rows=5000, dim=13)
    plan, depths = one_tier_of_a_quarter(**{"row_scale_bits": 8, **changes})
    alone = encode(dense, plan, depths, options=QUICK).digest()
    assert digests_of_processes(3, dense, plan, depths) == [alone] * 3


@pytest.mark.parametrize("solver", ["refined", "paper"])
def test_processes_without_rows_train_too(solver):
    dense = weight(rows=300, dim=13)
    plan = CodingPlan(num_embeddings=300, embedding_dim=13, stage_bits=(7,), row_scale_bits=0)
    options = {"solver": solver, "warm_start": "autoencoder"}
    alone = encode(dense, plan, options=replace(QUICK, **options)).digest()
    assert digests_of_processes(2, dense, plan, **options) == [alone] * 2


class RowsByView(DenseRows):
    def read(self, ids):
        first = int(ids[0]) if len(ids) else 0
        return self.weight[first : first + len(ids)]


def test_rows_that_are_read_as_views_are_left_as_they_were():
    dense = weight()
    kept = dense.clone()
    plan = CodingPlan(num_embeddings=ROWS, embedding_dim=DIM, stage_bits=(7,), row_scale_bits=8)
    found = encode(RowsByView(dense), plan, options=QUICK)
    assert torch.equal(dense, kept)
    assert found.digest() == encode(dense, plan, options=QUICK).digest()


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("row_scale_bits", [0, 8])
def test_the_same_bytes_whether_a_copy_of_the_rows_is_held_or_not(centered, row_scale_bits):
    dense = weight(rows=5000, dim=13)
    plan, depths = one_tier_of_a_quarter(row_scale_bits=row_scale_bits, centered=centered)
    read, held = (encode(table, plan, depths, options=QUICK) for table in (DenseRows(dense), RowsOfAFile(dense)))
    assert read.digest() == held.digest()
    left = (read.decode_all() - dense).square().sum(1) / dense.square().sum(1)
    covered = left[depths == 1]  # coded 512 at a time
    assert float(covered[1024:].mean()) == pytest.approx(float(covered[:512].mean()), rel=0.1)
    assert float(covered.mean()) < 0.7 * float(left[depths == 0].mean())


def test_decode_keeps_the_shape_of_ids_and_refuses_those_out_of_range():
    table = encode(weight(), CodingPlan(ROWS, DIM, stage_bits=(20,)), options=QUICK)
    ids = torch.tensor([[5, 599], [0, 5]])
    assert torch.allclose(table.decode(ids), table.decode_all()[ids], atol=1e-6)
    for wrong in (-1, ROWS):
        with pytest.raises(IndexError, match=rf"ids must be in \[0, {ROWS - 1}\], got {wrong} to {wrong}"):
            table.decode(torch.tensor([wrong]))


def test_blocks_add_up_to_the_table():
    plan, depths = tiered_plan()
    table = encode(weight(), plan, depths, options=QUICK)
    blocks = list(table.decode_blocks(block_rows=97))
    assert [block.shape[0] for block in blocks] == [97] * 6 + [18]
    assert torch.allclose(torch.cat(blocks), table.decode_all(), atol=1e-6)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (torch.zeros(0, 4), ValueError, "non-empty matrix"),
        (torch.zeros(4), ValueError, r"non-empty matrix \(V, d\), got shape \(4,\)"),
        (torch.ones(4, 4, dtype=torch.int32), TypeError, "floating-point tensor, got torch.int32"),
        (torch.full((6000, 4), float("nan")), ValueError, "NaN or infinite values, the first in row 0"),
        (torch.cat([torch.ones(1500, 4), torch.full((1, 4), float("inf"))]), ValueError, "the first in row 1500"),
        (torch.ones(5, 4), ValueError, r"weight has shape \(5, 4\), the plan is for \(600, 24\)"),
    ],
)
def test_what_is_no_table_is_refused(table, error, message):
    with pytest.raises(error, match=message):
        encode(table, CodingPlan(ROWS, DIM, stage_bits=(8,)))


def test_tensors_that_do_not_match_the_plan_are_all_named():
    table = encode(weight(), CodingPlan(ROWS, DIM, stage_bits=(20,)), options=QUICK)
    tensors = dict(table.tensors)
    del tensors["decoder"]
    tensors["codes"] = tensors["codes"][:-1]
    tensors["extra"] = tensors["codes"]
    with pytest.raises(ValueError, match=r"decoder is missing; extra is not part of the plan; codes is .*\(1499,\)"):
        CompressedTable(table.plan, tensors)


def test_trellis_tiers_leave_less_in_the_metric_after_their_map():
    dense = weight(2000, 32)
    basis = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(5))).Q
    metric = basis @ torch.diag(8.0 ** torch.linspace(1, -1, 32)) @ basis.t()
    depths = torch.ones(2000, dtype=torch.long)
    plan = CodingPlan(2000, 32, stage_bits=(48,), tiers=(Tier(2000, "trellis", 32, 8),))
    plan = replace(plan, index_bytes=encode_depths(depths, 1).numel())

    def error(rank):
        left = encode(dense, replace(plan, whitening_rank=rank), depths, metric, QUICK).decode_all() - dense
        return float(((left @ metric) * left).sum())

    assert error(8) < 0.93 * error(0)


def test_a_map_without_a_metric_changes_nothing():
    dense, depths = weight(300, 32), torch.ones(300, dtype=torch.long)
    plan = CodingPlan(300, 32, stage_bits=(8,), tiers=(Tier(300, "trellis", 32, 8),))
    plan = replace(plan, index_bytes=encode_depths(depths, 1).numel())
    mapped = encode(dense, replace(plan, whitening_rank=2), depths, options=QUICK)
    assert int(mapped.tensors["whitening"].count_nonzero()) == 0
    assert torch.equal(mapped.decode_all(), encode(dense, plan, depths, options=QUICK).decode_all())


def test_rows_of_zeros_stay_zeros_in_trellis_tiers():
    dense, depths = weight(40, 32), torch.ones(40, dtype=torch.long)
    dense[7] = 0.0
    plan = CodingPlan(40, 32, stage_bits=(4,), tiers=(Tier(40, "trellis", 32, 8),))
    plan = replace(plan, index_bytes=encode_depths(depths, 1).numel())
    assert encode(dense, plan, depths, options=QUICK).decode(torch.tensor([7])).abs().max() == 0


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_tiers_without_row_scales_have_the_rows_scale(scale):
    dense, depths = scale * weight(50, 32), torch.ones(50, dtype=torch.long)
    for kind in ("rotated", "trellis"):
        plan = CodingPlan(50, 32, stage_bits=(4,), row_scale_bits=0, tiers=(Tier(50, kind, 32, 8),))
        plan = replace(plan, index_bytes=encode_depths(depths, 1).numel())
        assert relative_error(encode(dense, plan, depths, options=QUICK), dense) < 0.5


def test_tiers_without_scales_of_their_own_code_as_well_for_fewer_bytes():
    rows, dim = 2000, 96
    dense = weight(rows, dim)
    depths = (torch.arange(rows) < 1500).long() + (torch.arange(rows) < 900) + (torch.arange(rows) < 300)
    found = []
    for bits in ((8, 8, 8), (4, 0, 0)):
        tiers = tuple(Tier(covered, "trellis", dim, own) for covered, own in zip((1500, 900, 300), bits, strict=True))
        plan = CodingPlan(rows, dim, stage_bits=(32,), tiers=tiers, index_bytes=encode_depths(depths, 3).numel())
        error = (encode(dense, plan, depths, options=QUICK).decode_all() - dense).square().sum(dim=1)
        share = error / dense.square().sum(dim=1)
        found.append((plan.stored_bytes, *(float(share[part].mean()) for part in (slice(300), slice(300, 900)))))
    own, shared = found
    assert own[0] - shared[0] == 750 + 900 + 300 + 16  # and two grids of 8 bytes
    for with_own, without in zip(own[1:], shared[1:], strict=True):
        assert without < 1.02 * with_own
