"""Which files are in a repository already."""

import hashlib
import subprocess
from pathlib import Path

from huggingface_hub import ModelInfo
from hypothesis import given
from hypothesis import strategies as st

from transformers_lighttoken.hub.target import Target, _git_hash

ROW = {"rfilename": "a.bin", "size": 3, "blobId": "pointer", "lfs": {"sha256": "", "size": 3, "pointerSize": 1}}


def target_with(path: str, content_hash: str) -> Target:
    return Target("a/b", files={path: content_hash})


def test_large_files_go_by_sha256_and_others_by_gits_hash(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    for content in (b"abc", tmp_path / "a"):
        assert target_with("a", hashlib.sha256(b"abc").hexdigest()).has("a", content)
        assert target_with("a", "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f").has("a", content)  # of `git hash-object`
        assert not target_with("a", hashlib.sha256(b"abd").hexdigest()).has("a", content)
        assert not target_with("b", hashlib.sha256(b"abc").hexdigest()).has("a", content)
        assert not Target("a/b").has("a", content)


@given(st.binary(max_size=100))
def test_git_hash_against_its_definition(content: bytes):
    assert _git_hash(content) == hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def test_git_hash_against_git(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 9000)
    git = subprocess.run(["git", "hash-object", "--no-filters", path], capture_output=True, text=True, check=True)
    assert _git_hash(path) == git.stdout.strip()


def test_state_that_the_hub_tells_of():
    large = {**ROW, "lfs": {**ROW["lfs"], "sha256": "s" * 64}}  # pyright: ignore[reportGeneralTypeIssues]
    rows = [large, {"rfilename": "b.txt", "size": 1, "blobId": "g" * 40}]
    info = ModelInfo(id="a/b", private=True, sha="c" * 40, siblings=rows)
    assert Target.of("a/b", "v1", info) == Target(
        "a/b", "v1", True, True, True, "c" * 40, {"a.bin": "s" * 64, "b.txt": "g" * 40}
    )
