"""A Hub on the loopback interface, for tests: the real huggingface_hub client speaks to it over HTTP.

    with HubServer() as hub:
        api = HfApi(endpoint=hub.url, token=hub.write_token)
        hub.inject("lfs_upload", status=503)             # the next upload of a large file fails once
        api.upload_folder(...)
        assert hub.snapshot("alice/model").files["main"].keys() == {...}
        assert hub.log.counts()["commit"] == 1

`alice` owns the usual tokens and may write in the organisation `acme` and read in `readers`; `bob` is a stranger.
Large files are redirected to `localhost` while the API is on `127.0.0.1`: for a client that is another host.
`HF_ENDPOINT` and `HF_HUB_DISABLE_XET` are read when huggingface_hub is imported: see `HubServer.environment` for the
processes that a test starts, and the fixtures in tests/integration/conftest.py.
"""

import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from tests import hub_files, hub_routes
from tests.hub_faults import Fault, FaultList, LoggedRequest, RequestLog, fault_answer
from tests.hub_http import Call, Reply, flip_middle_byte, read_body
from tests.hub_store import HubRefusal, HubStore, RepoSnapshot

BAD_TOKEN = "hf_" + "thisTokenWasNeverIssued" + "x" * 11
ROOT = Path(__file__).resolve().parents[1]
Action = Callable[..., Reply]

REPO, NAME, SHA256 = r"([^/]+/[^/]+)", r"([^/]+)", r"([0-9a-f]{64})"
ROUTES: list[tuple[str, str, str, Action]] = [
    ("whoami", "GET", "/api/whoami-v2", hub_routes.whoami),
    ("create", "POST", "/api/repos/create", hub_routes.create),
    ("delete", "DELETE", "/api/repos/delete", hub_routes.delete),
    ("move", "POST", "/api/repos/move", hub_routes.move),
    ("validate_yaml", "POST", "/api/validate-yaml", hub_routes.validate_yaml),
    ("lfs_complete", "POST", f"/api/complete_multipart/{NAME}", hub_files.complete),
    ("repo_info", "GET", f"/api/models/{REPO}", hub_routes.repo_info),
    ("repo_info", "GET", f"/api/models/{REPO}/revision/{NAME}", hub_routes.repo_info),
    ("commits", "GET", f"/api/models/{REPO}/commits/{NAME}", hub_routes.commits),
    ("tree", "GET", f"/api/models/{REPO}/tree/{NAME}(?:/(.+))?", hub_routes.tree),
    ("paths_info", "POST", f"/api/models/{REPO}/paths-info/{NAME}", hub_routes.paths_info),
    ("refs", "GET", f"/api/models/{REPO}/refs", hub_routes.refs),
    ("discussions", "GET", f"/api/models/{REPO}/discussions", hub_routes.discussions),
    ("branch", "POST", f"/api/models/{REPO}/branch/{NAME}", hub_routes.create_branch),
    ("tag", "POST", f"/api/models/{REPO}/tag/{NAME}", hub_routes.create_tag),
    ("branch", "DELETE", f"/api/models/{REPO}/(branch)/{NAME}", hub_routes.delete_ref),
    ("tag", "DELETE", f"/api/models/{REPO}/(tag)/{NAME}", hub_routes.delete_ref),
    ("preupload", "POST", f"/api/models/{REPO}/preupload/{NAME}", hub_routes.preupload),
    ("commit", "POST", f"/api/models/{REPO}/commit/{NAME}", hub_routes.commit),
    ("batch", "POST", rf"/{REPO}\.git/info/lfs/objects/batch", hub_files.batch),
    ("verify", "POST", rf"/{REPO}\.git/info/lfs/objects/verify", hub_files.verify),
    ("lfs_upload", "PUT", f"/storage/{REPO}/{SHA256}", hub_files.storage_put),
    ("download", "GET", f"/storage/{REPO}/{SHA256}/.+", hub_files.storage_get),
    ("head", "HEAD", f"/{REPO}/resolve/{NAME}/(.+)", hub_files.resolve),
    ("download", "GET", f"/{REPO}/resolve/{NAME}/(.+)", hub_files.resolve),
]


def find_route(call: Call) -> tuple[str, Callable[[HubStore, Call], Reply]]:
    """The step that a request is, and what answers it."""

    def bound(action: Action, names: list[str]) -> Callable[[HubStore, Call], Reply]:
        return lambda hub, call: action(hub, call, *names)

    for step, method, pattern, action in ROUTES:
        if method == call.method and (match := re.fullmatch(pattern, call.path)):
            return step, bound(action, [name for name in match.groups() if name is not None])
    return "unknown", lambda hub, call: Reply.of_refusal(HubRefusal(404, f"No such address: {call.path}"))


class HubServer:
    """The server with its accounts, faults and log; a context manager."""

    def __init__(self) -> None:
        self.store = HubStore()
        self.store.add_user("alice", {"acme": "write", "readers": "read"})
        self.store.add_user("bob")
        self.write_token = self.store.issue_token("alice", "write")
        self.read_token = self.store.issue_token("alice", "read")
        self.other_token = self.store.issue_token("bob", "write")
        self.bad_token = BAD_TOKEN
        self.faults = FaultList()
        self.log = RequestLog()
        self.closing = threading.Event()
        self._listener = _Listener(self)
        port = self._listener.server_address[1]
        self.url, self.store.url = (f"http://127.0.0.1:{port}",) * 2
        self.store.storage_url = f"http://localhost:{port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.closing.set()
        self._listener.shutdown()
        self._listener.server_close()

    def inject(
        self,
        step: str,
        *,
        status: int = 503,
        mode: str = "status",
        times: int | None = 1,
        skip: int = 0,
        path: str = "",
        seconds: float = 0.5,
    ) -> Fault:
        """Makes the next requests of a step fail.

        Args:
            step: one of `hub_faults.STEPS`.
            status: the HTTP status, with `mode="status"`.
            mode: one of `hub_faults.MODES`, which explains them.
            times: how many requests fail; None for all.
            skip: how many requests pass before (2 with a file in parts: the third part fails).
            path: only requests with this text in their path fail.
            seconds: how long `mode="timeout"` holds the connection.
        """
        fault = Fault(step, status, mode, times, skip, path, seconds)
        self.faults.faults.append(fault)
        return fault

    def clear_faults(self) -> None:
        self.faults.faults.clear()

    def snapshot(self, repo_id: str) -> RepoSnapshot:
        """What a reader of the repository sees now; without heads if there is no such repository."""
        with self.store.lock:
            repo = self.store.repos.get(repo_id)
            return repo.snapshot() if repo else RepoSnapshot()

    def commit(self, repo_id: str, files: Mapping[str, bytes], branch: str = "main", title: str = "other work") -> str:
        """Commits small files on the server's side, as somebody else would; returns the commit's id."""
        with self.store.lock:
            content = {path: (data, None) for path, data in files.items()}
            return self.store.repos[repo_id].add_commit(branch, "somebody", title, content)[0].id

    def environment(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """Environment variables for a client process with a cache and settings of its own in `home`."""
        ours = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        settings = {
            **{"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"},
            **{"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1,localhost"},
            **{"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")])},
        }
        return kept | settings | ({"HF_TOKEN": token} if token else {}) | more


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, hub: HubServer) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        hub = self.server.hub
        call = Call.from_target(self.command, self.path, self.headers)
        step, action = find_route(call)
        fault = hub.faults.take(step, call.path)
        body = read_body(self.rfile, self.headers, 0.5 if fault and fault.mode == "drop" else 1.0)
        call = replace(call, body=body)
        reply = _answer(hub, call, step, action, fault)
        entry = LoggedRequest(
            *(step, call.method, call.path, call.query, self.headers.get("Host", ""), call.token, len(body)),
            *(reply.status if reply else 0, fault.mode if fault else None),
        )
        hub.log.append(entry)
        if reply is None:
            self._hang_up()
        else:
            self._send(reply, truncated=fault is not None and fault.mode == "truncate")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 (names fixed by http.server)

    def _send(self, reply: Reply, truncated: bool) -> None:
        try:
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body[: len(reply.body) // 2] if truncated else reply.body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        if truncated:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        try:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass


def _answer(
    hub: HubServer, call: Call, step: str, action: Callable[[HubStore, Call], Reply], fault: Fault | None
) -> Reply | None:
    """The reply with the fault worked in; None if there shall be no answer."""
    mode = fault.mode if fault else None
    if fault and mode == "status":
        wanted = call.json() if step == "create" else {}
        owner = wanted.get("organization") or "alice"
        status, headers, body = fault_answer(fault, f"{hub.url}/{owner}/{wanted.get('name')}")
        return Reply(status, body, headers)
    if fault and mode == "timeout":
        hub.closing.wait(fault.seconds)
    if mode in ("timeout", "drop"):
        return None
    if mode == "corrupt" and step == "lfs_upload":
        call = replace(call, body=flip_middle_byte(call.body))
    with hub.store.lock:
        if mode == "race":
            repo_id, branch = re.fullmatch(rf"/api/models/{REPO}/commit/{NAME}", call.path).groups()  # type: ignore[union-attr]
            hub.commit(repo_id, {"somebody.txt": b"a commit in between\n"}, branch)
        try:
            reply = hub_routes.redirect(hub.store, call) or action(hub.store, call)
        except HubRefusal as refusal:
            reply = Reply.of_refusal(refusal)
    if mode == "corrupt" and step != "lfs_upload":
        reply.body = flip_middle_byte(reply.body)
    return None if mode == "lost_answer" else reply
