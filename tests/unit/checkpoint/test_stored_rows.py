"""Rows of a table on disk, read as they are needed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from transformers_lighttoken.checkpoint.stored_rows import StoredRows
from transformers_lighttoken.checkpoint.tensor_file import read_tensors
from transformers_lighttoken.modeling.errors import LightTokenCheckpointError

ROWS, DIM = 50_000, 24


def stored(tmp_path: Path, table: torch.Tensor) -> StoredRows:
    save_file({"a": torch.zeros(3), "table": table, "z": torch.ones(5)}, tmp_path / "m.safetensors")
    return StoredRows(read_tensors(tmp_path / "m.safetensors")[0]["table"], torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_rows_in_any_order(tmp_path: Path, dtype: torch.dtype) -> None:
    table = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = stored(tmp_path, table)
    assert (rows.shape, rows.dtype) == ((ROWS, DIM), dtype)
    shuffled = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    for ids in (shuffled, shuffled[:7], torch.arange(ROWS), torch.tensor([ROWS - 1, 0, 0]), torch.arange(0)):
        assert torch.equal(rows.read(ids), table[ids])


def test_far_rows_are_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = stored(tmp_path, torch.randn(ROWS, DIM))
    read: list[int] = []
    opened = Path.open

    def follow(path: Path, mode: str) -> object:
        file = opened(path, mode)
        inner = file.read

        class Counting:
            def __enter__(self) -> "Counting":
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def seek(self, place: int) -> None:
                file.seek(place)

            def read(self, count: int) -> object:
                read.append(count)
                return inner(count)

        return Counting()

    monkeypatch.setattr(Path, "open", follow)
    rows.read(torch.tensor([49_999, 3, 1]))
    assert read == [3 * DIM * 4, DIM * 4]


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    rows = stored(tmp_path, torch.randn(ROWS, DIM))
    path = rows.tensor.path
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LightTokenCheckpointError, match="ends inside 'table': it is truncated"):
        rows.read(torch.tensor([ROWS - 1]))
