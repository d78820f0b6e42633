"""LightTokenEmbedding does what nn.Embedding with the decoded table does."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers.models.bart.modeling_bart import BartScaledWordEmbedding
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from tests.helpers import plan_of, random_table
from transformers_lighttoken import LightTokenEmbedding
from transformers_lighttoken.coding.table import CompressedTable
from transformers_lighttoken.modeling import embedding as embedding_module
from transformers_lighttoken.modeling.errors import LightTokenCheckpointError, UnsupportedEmbeddingError
from transformers_lighttoken.modeling.kind import EmbeddingKind

IDS = torch.randint(0, 160, (3, 7), generator=torch.Generator().manual_seed(5))


@pytest.fixture(name="table")
def _table() -> CompressedTable:
    return random_table(plan_of(160, 32, tiers=3))


def same(rows: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> bool:
    """Equal but for the rounding of a matrix product, which depends on the number of rows."""
    return rows.shape == expected.shape and torch.allclose(rows.float(), expected.float(), atol=tolerance)


def exact_ids_of(table: CompressedTable) -> torch.Tensor:
    return (table.positions < table.plan.num_exact).nonzero().flatten()


def dense_of(table: CompressedTable, **options: object) -> nn.Embedding:
    return nn.Embedding.from_pretrained(table.decode_all(), freeze=False, **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("fields", [{}, {"tiers": 3}, {"exact": 0, "rank": 0}, {"exact": 0, "tiers": 1}])
def test_rows_are_those_of_the_table(fields: dict) -> None:
    table = random_table(plan_of(160, 32, **fields))
    embedding = LightTokenEmbedding.from_table(table)
    every_id = torch.arange(160)
    assert same(embedding(every_id), table.decode_all())
    assert same(embedding(IDS), table.decode_all()[IDS])
    assert same(embedding(IDS.int()), table.decode_all()[IDS])


def test_ids_that_repeat_are_decoded_once_with_the_same_result(
    table: CompressedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = LightTokenEmbedding.from_table(table)
    decoded = []
    decode = embedding_module.decode_positions
    monkeypatch.setattr(
        embedding_module, "decode_positions", lambda *args: decoded.append(args[2].numel()) or decode(*args)
    )
    ids = torch.randint(0, 50, (40, 40))
    expected = table.decode_all()[ids]
    assert same(embedding(ids), expected)
    assert same(embedding(ids[:1, :5]), expected[:1, :5])
    assert decoded == [ids.unique().numel(), 5]


def test_empty_and_scalar_ids(table: CompressedTable) -> None:
    embedding = LightTokenEmbedding.from_table(table)
    assert embedding(torch.empty(2, 0, dtype=torch.long)).shape == (2, 0, 32)
    assert same(embedding(torch.tensor(7)), table.decode_all()[7])


@pytest.mark.parametrize("wrong", [-1, 160, 2**31, -(2**40)])
def test_ids_out_of_range_raise_as_in_a_dense_embedding(table: CompressedTable, wrong: int) -> None:
    ids = torch.tensor([[3, wrong]])
    with pytest.raises(IndexError):
        dense_of(table)(ids)
    with pytest.raises(IndexError):
        LightTokenEmbedding.from_table(table)(ids)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_follows_the_model_and_the_stored_integers_stay(table: CompressedTable, dtype: torch.dtype) -> None:
    embedding = LightTokenEmbedding.from_table(table).to(dtype)
    assert embedding(IDS).dtype == dtype
    assert same(embedding(IDS), table.decode_all()[IDS], tolerance=0.02)
    exact = exact_ids_of(table)
    assert torch.equal(embedding(exact), table.tensors["exact_rows"].to(dtype))
    for name, tensor in table.tensors.items():
        if name != "exact_rows":
            assert torch.equal(getattr(embedding, name), tensor)
    coded = (table.positions >= table.plan.num_exact).nonzero().flatten()
    assert same(embedding.float()(coded), table.decode_all()[coded])


def test_autocast_changes_nothing(table: CompressedTable) -> None:
    embedding = LightTokenEmbedding.from_table(table)
    with torch.autocast("cpu", torch.bfloat16):
        rows = embedding(IDS)
    assert rows.dtype == torch.float32
    assert same(rows, table.decode_all()[IDS])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scaled_class", [BartScaledWordEmbedding, Gemma3TextScaledWordEmbedding])
def test_scaled_embeddings_round_as_their_class_does(
    table: CompressedTable, scaled_class: type[nn.Embedding], dtype: torch.dtype
) -> None:
    dense = scaled_class(160, 32, 1, embed_scale=7.07).to(dtype)  # pyright: ignore[reportCallIssue]
    dense.weight.data.copy_(table.decode_all())
    kind = EmbeddingKind.of(dense)
    compressed = LightTokenEmbedding.from_table(table, kind, dtype)
    assert (compressed.padding_idx, compressed.embed_scale) == (1, 7.07)
    exact = exact_ids_of(table)  # stored as they are, so that only the scale rounds
    assert torch.equal(compressed(exact), dense(exact))
    assert same(compressed(IDS), dense(IDS), tolerance=1e-5 if dtype == torch.float32 else 0.1)
    restored = kind.dense_module(nn.Parameter(table.decode_all(dtype)))
    assert type(restored) is scaled_class
    assert torch.equal(restored(IDS), dense(IDS))


def test_gradient_reaches_exact_rows_but_not_the_padding_row(table: CompressedTable) -> None:
    exact_ids = exact_ids_of(table)
    padding, trained = int(exact_ids[0]), int(exact_ids[1])
    ids = torch.tensor([[padding, trained, trained, 7], [padding, int(exact_ids[2]), 8, 9]])
    compressed = LightTokenEmbedding.from_table(table, EmbeddingKind(padding_idx=padding))
    dense = dense_of(table, padding_idx=padding)
    weights = torch.randn(2, 4, 32)
    (compressed(ids) * weights).sum().backward()
    (dense(ids) * weights).sum().backward()
    assert dense.weight.grad is not None
    assert compressed.exact_rows.grad is not None
    assert torch.allclose(compressed.exact_rows.grad, dense.weight.grad[exact_ids])
    assert compressed.exact_rows.grad[0].count_nonzero() == 0
    assert compressed.exact_rows.grad[1].count_nonzero() == 32


def test_without_exact_rows_nothing_trains() -> None:
    embedding = LightTokenEmbedding.from_table(random_table(plan_of(160, 32, exact=0)))
    assert not embedding.exact_rows.requires_grad
    assert not embedding(IDS).requires_grad


def test_no_decoded_copy_is_kept(table: CompressedTable) -> None:
    embedding = LightTokenEmbedding.from_table(table)
    embedding(torch.arange(160))
    embedding(torch.randn(2, 32), mode="logits")
    held = [tensor for tensor in vars(embedding).values() if isinstance(tensor, torch.Tensor)]
    assert held == []
    total = sum(tensor.nbytes for tensor in [*embedding.parameters(), *embedding.buffers()])
    assert total == table.plan.stored_bytes + 4 * 160  # and the positions


def test_compile_without_graph_breaks(table: CompressedTable) -> None:
    embedding = LightTokenEmbedding.from_table(table)
    compiled = torch.compile(embedding, fullgraph=True, backend="eager")
    for columns in (3, 400):
        ids = torch.randint(0, 160, (2, columns))
        assert torch.allclose(compiled(ids), embedding(ids), atol=1e-6)


@pytest.mark.parametrize("strict", [False, True])
def test_export(table: CompressedTable, strict: bool) -> None:
    embedding = LightTokenEmbedding.from_table(table)
    program = torch.export.export(embedding, (IDS,), strict=strict)
    other = torch.flip(IDS, [0, 1])
    assert torch.allclose(program.module()(other), embedding(other), atol=1e-6)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_compute_the_same(table: CompressedTable, duplicate: object) -> None:
    embedding = LightTokenEmbedding.from_table(table, EmbeddingKind(padding_idx=1))
    twin = duplicate(embedding)  # pyright: ignore[reportCallIssue]
    assert torch.equal(twin(IDS), embedding(IDS))
    assert twin.padding_idx == 1
    assert twin.table.digest() == table.digest()


def test_state_dict_has_the_tensors_of_the_plan_and_an_empty_sentinel(table: CompressedTable) -> None:
    state = LightTokenEmbedding.from_table(table).state_dict()
    assert set(state) == {*table.plan.tensor_specs(), "weight"}
    assert state["weight"].shape == (0,)


def test_load_state_dict_takes_the_positions_along(table: CompressedTable) -> None:
    other = random_table(table.plan, seed=3)
    embedding = LightTokenEmbedding(table.plan)
    assert embedding.load_state_dict(LightTokenEmbedding.from_table(other).state_dict()) == ([], [])
    assert same(embedding(IDS), other.decode_all()[IDS])


def test_a_dense_table_in_the_state_dict_is_refused(table: CompressedTable) -> None:
    state = {
        f"word_embeddings.{key}": value for key, value in LightTokenEmbedding.from_table(table).state_dict().items()
    }
    state["word_embeddings.weight"] = torch.zeros(160, 32)
    model = nn.ModuleDict({"word_embeddings": LightTokenEmbedding.from_table(table)})
    with pytest.raises(LightTokenCheckpointError, match="word_embeddings.weight holds a dense table"):
        model.load_state_dict(state)


def test_a_damaged_tier_index_is_named(table: CompressedTable) -> None:
    embedding = LightTokenEmbedding.from_table(table)
    embedding.get_buffer("tier_index")[0] = 7
    with pytest.raises(LightTokenCheckpointError, match="tier_index has no valid record"):
        embedding.refresh_positions()


def test_exact_rows_in_a_dtype_that_cannot_be_stored(table: CompressedTable) -> None:
    embedding = LightTokenEmbedding.from_table(table).double()
    with pytest.raises(ValueError, match=r"the model's dtype is torch.float64"):
        _ = embedding.table


@pytest.mark.parametrize(
    ("options", "named"),
    [({"max_norm": 1.0}, "max_norm=1.0"), ({"sparse": True}, "sparse"), ({"scale_grad_by_freq": True}, "scale_grad")],
)
def test_options_of_embeddings_that_cannot_be_kept_are_refused(options: dict, named: str) -> None:
    with pytest.raises(UnsupportedEmbeddingError, match=named):
        EmbeddingKind.of(nn.Embedding(9, 4, **options), "wte")


def test_other_subclasses_are_refused_by_name() -> None:
    class PositionAwareEmbedding(nn.Embedding):
        pass

    with pytest.raises(UnsupportedEmbeddingError, match=r"'wte' \(PositionAwareEmbedding\).*modules_to_not_convert"):
        EmbeddingKind.of(PositionAwareEmbedding(9, 4), "wte")
    with pytest.raises(UnsupportedEmbeddingError, match=r"\(Linear\)"):
        EmbeddingKind.of(nn.Linear(9, 4), "wte")


def test_printed_form_tells_what_is_stored(table: CompressedTable) -> None:
    shown = repr(LightTokenEmbedding.from_table(table, EmbeddingKind(padding_idx=1)))
    assert shown.startswith("LightTokenEmbedding(160, 32, rank=2, code_bits=11, num_exact=5, ratio=")
    assert "padding_idx=1" in shown
