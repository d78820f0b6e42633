import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers_lighttoken.evaluation.data import TASK_COLUMNS, load_rows, load_text

PAIRS = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1.5, 4.0], "idx": [0, 1]}


def write(folder, columns, task="stsb", split="validation"):
    (folder / task).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / task / f"{split}.parquet")
    return folder


def test_rows_of_a_task(tmp_path):
    rows = load_rows(write(tmp_path, PAIRS), "stsb", "validation")
    assert list(rows) == [
        {"sentence1": "a", "sentence2": "c", "label": 1.5, "idx": 0},
        {"sentence1": "b", "sentence2": "d", "label": 4.0, "idx": 1},
    ]
    assert rows.select([1])["label"] == [4.0]


def test_nothing_is_written_beside_the_data(tmp_path):
    load_rows(write(tmp_path, PAIRS), "stsb", "validation")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["validation.parquet"]


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path, {"sentence1": ["a"], "text": ["b"], "label": [1.0]})
    with pytest.raises(
        ValueError,
        match="lacks the column 'sentence2': task stsb needs sentence1, sentence2, label, and it has sentence1,",
    ):
        load_rows(tmp_path, "stsb", "validation")


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match=rf"task must be one of {', '.join(TASK_COLUMNS)}, got 'glue'"):
        load_rows(tmp_path, "glue", "validation")


def test_a_missing_split_tells_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="test.parquet does not exist; .*stsb holds: validation.parquet"):
        load_rows(write(tmp_path, PAIRS), "stsb", "test")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent holds: no such folder"):
        load_rows(tmp_path / "absent", "stsb", "test")


def test_what_is_no_parquet_is_refused(tmp_path):
    write(tmp_path, PAIRS)
    (tmp_path / "stsb" / "validation.parquet").write_bytes(b"sentence1,sentence2\n")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        load_rows(tmp_path, "stsb", "validation")


def test_no_rows_are_refused(tmp_path):
    write(tmp_path, {name: pa.array([], pa.string()) for name in PAIRS})
    with pytest.raises(ValueError, match="has no rows"):
        load_rows(tmp_path, "stsb", "validation")


def test_text_is_read_as_it_is(tmp_path):
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "validation.txt").write_bytes(" = é =\n\n<unk> .\n".encode())
    assert load_text(tmp_path) == " = é =\n\n<unk> .\n"


@pytest.mark.parametrize(("content", "message"), [(b"\xff\xfe\x00", "is not UTF-8"), (b" \n", "is empty")])
def test_text_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "validation.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_text(tmp_path)
