"""Reading and writing safetensors files as streams."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import raw_tensors
from transformers_lighttoken.checkpoint import tensor_file
from transformers_lighttoken.checkpoint.tensor_file import NewTensor, read_tensors, write_tensors
from transformers_lighttoken.modeling.errors import LightTokenCheckpointError

TENSORS = {
    "z.float": torch.randn(7, 3),
    "a.half": torch.randn(5).half(),
    "b.bfloat": torch.randn(2, 2).bfloat16(),
    "codes": torch.arange(11, dtype=torch.uint8),
    "signed": torch.tensor([[-5, 5]], dtype=torch.int8),
    "wide": torch.tensor([1.5, -2.5], dtype=torch.float64),
    "count": torch.tensor(3, dtype=torch.int64),
    "short": torch.tensor([-300], dtype=torch.int16),
    "flags": torch.tensor([True, False, True]),
    "empty": torch.empty(0, 4),
}
METADATA = {"format": "pt", "trained by": "someone \u00fc"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "source.safetensors", METADATA)
    return tmp_path / "source.safetensors"


def test_reads_what_safetensors_wrote(source: Path) -> None:
    tensors, metadata = read_tensors(source)
    assert metadata == METADATA
    header, data, _ = raw_tensors(source)
    assert tensors.keys() == header.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == header[name]["dtype"]
        assert list(tensor.shape) == header[name]["shape"]
        assert b"".join(tensor.chunks()) == data[name]
        assert tensor.num_bytes == len(data[name])
        assert torch.equal(tensor.load(), TENSORS[name])


def test_a_copy_is_the_file_that_safetensors_would_write(source: Path, tmp_path: Path) -> None:
    tensors, metadata = read_tensors(source)
    write_tensors(tmp_path / "copy.safetensors", tensors, metadata)
    again = tmp_path / "again.safetensors"
    save_file(load_file(source), again, METADATA)
    assert raw_tensors(tmp_path / "copy.safetensors") == raw_tensors(again)
    assert (tmp_path / "copy.safetensors").stat().st_size == again.stat().st_size


def test_every_tensor_starts_at_a_multiple_of_its_item_size(source: Path, tmp_path: Path) -> None:
    write_tensors(tmp_path / "copy.safetensors", *read_tensors(source))
    for name, tensor in read_tensors(tmp_path / "copy.safetensors")[0].items():
        assert tensor.start % TENSORS[name].element_size() == 0, name


def test_writes_new_tensors_block_by_block(tmp_path: Path) -> None:
    blocks = TENSORS["z.float"].split(2)
    new = {
        "blocks": NewTensor(torch.float32, (7, 3), lambda: blocks),
        "strided": NewTensor.of(torch.arange(6.0).view(2, 3).t()),
        "bfloat": NewTensor.of(TENSORS["b.bfloat"]),
        "empty": NewTensor.of(TENSORS["empty"]),
        "scalar": NewTensor.of(TENSORS["count"]),
    }
    counted: list[int] = []
    write_tensors(tmp_path / "new.safetensors", new, {}, counted.append)
    loaded = load_file(tmp_path / "new.safetensors")
    assert torch.equal(loaded["blocks"], TENSORS["z.float"])
    assert torch.equal(loaded["strided"], torch.arange(6.0).view(2, 3).t())
    assert torch.equal(loaded["bfloat"], TENSORS["b.bfloat"])
    assert loaded["empty"].shape == (0, 4)
    assert loaded["scalar"] == 3
    assert sum(counted) == 7 * 3 * 4 + 6 * 4 + 8 + 8
    assert raw_tensors(tmp_path / "new.safetensors")[2] == {}


def test_tensors_longer_than_a_chunk(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "_CHUNK", 5)
    tensors, metadata = read_tensors(source)
    assert [len(chunk) for chunk in tensors["codes"].chunks()] == [5, 5, 1]
    write_tensors(tmp_path / "copy.safetensors", tensors, metadata)
    for name, tensor in load_file(tmp_path / "copy.safetensors").items():
        assert torch.equal(tensor, TENSORS[name])


def test_same_bytes(tmp_path: Path) -> None:
    table = torch.randn(6, 4)
    other = table.clone()
    other[5, 3] += 1
    save_file(
        {"one": table, "two": table.clone(), "other": other, "flat": table.clone().flatten(), "half": table.half()},
        tmp_path / "file.safetensors",
    )
    tensors, _ = read_tensors(tmp_path / "file.safetensors")
    assert tensors["one"].same_bytes(tensors["two"])
    assert not any(tensors["one"].same_bytes(tensors[name]) for name in ("other", "flat", "half"))


def test_a_file_is_never_overwritten(source: Path) -> None:
    with pytest.raises(FileExistsError):
        write_tensors(source, {}, {})


@pytest.mark.parametrize("damage", ["truncated", "not safetensors", "missing"])
def test_a_damaged_file_is_named(source: Path, damage: str) -> None:
    if damage == "missing":
        source.unlink()
    else:
        source.write_bytes(source.read_bytes()[:-3] if damage == "truncated" else b"PK\x03\x04" * 9)
    with pytest.raises(LightTokenCheckpointError, match=r"source\.safetensors cannot be read: .*Download it again"):
        read_tensors(source)


def test_a_file_that_shrinks_while_it_is_read_is_named(source: Path) -> None:
    tensors, _ = read_tensors(source)
    last = max(tensors.values(), key=lambda tensor: tensor.start + tensor.num_bytes)
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(LightTokenCheckpointError, match=f"ends inside '{last.key}'"):
        list(last.chunks())
