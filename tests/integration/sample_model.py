"""A small model folder to upload, and how the tests upload it."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi

from tests.hub_client_library import http
from tests.hub_server import HubServer

CARD = "---\nlicense: mit\nlibrary_name: transformers\ntags: [small]\n---\n# A model\n"
WEIGHTS = bytes(range(256)) * 1000  # 256,000 bytes, a large file (LFS) by its name


def make_model_folder(folder: Path) -> Path:
    (folder / "pictures").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "pictures" / "bytes.png").write_bytes(b"\x89PNG\r\n\0\0picture")
    return folder


def upload(api: HfApi, folder: Path, repo_id: str = "alice/model", private: bool = False, **options: Any) -> CommitInfo:
    """Creates the repository if need be and uploads the folder, in one commit."""
    api.create_repo(repo_id, private=private, exist_ok=True)
    return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="push", **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of all files."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def post_commit(hub: HubServer, key: str, value: dict[str, object]) -> Any:
    """A commit as no huggingface_hub client would send it."""
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": key, "value": value}]
    return http.post(
        f"{hub.url}/api/models/alice/model/commit/main",
        content="\n".join(json.dumps(line) for line in lines),
        headers={"Authorization": f"Bearer {hub.write_token}"},
    )
