"""Faults of the loopback Hub on demand, and its log of requests."""

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus

STEPS = (
    *("whoami", "create", "delete", "move", "validate_yaml", "repo_info", "commits", "tree", "paths_info", "refs"),
    *("discussions", "branch", "tag", "preupload", "batch", "lfs_upload", "lfs_complete", "verify", "commit"),
    *("head", "download"),
)
MODES = {
    "status": "answer with the fault's status; the request is not carried out",
    "timeout": "hold the connection for `seconds`, then close it; the request is not carried out",
    "drop": "close the connection when half of the request's body has arrived",
    "lost_answer": "carry the request out, then close the connection without an answer",
    "truncate": "send the right headers and half of the body, then close the connection",
    "corrupt": "flip one byte: of what is uploaded (lfs_upload), of the answer's body (all other steps)",
    "race": "let somebody else's commit land on the same branch just before this one (commit only)",
}
MESSAGES = {
    401: "Invalid credentials in Authorization header",
    403: "you must use a write token to upload to a repository.",
    404: "Repository not found",
    409: "Another conflicting operation is in progress",
    412: "A commit has happened since. Please refresh and try again.",
    429: "We had to rate limit you",
}


@dataclass
class Fault:
    """One fault waiting to happen; `fired` counts how often it has."""

    step: str
    status: int = 503
    mode: str = "status"
    times: int | None = 1
    skip: int = 0
    path: str = ""
    seconds: float = 0.5
    fired: int = 0

    def __post_init__(self) -> None:
        if self.step not in STEPS:
            raise ValueError(f"step={self.step!r} is not one of {', '.join(STEPS)}.")
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} is not one of {', '.join(MODES)}.")
        if self.mode == "race" and self.step != "commit":
            raise ValueError(f"mode='race' happens at step='commit' alone, not at {self.step!r}.")


@dataclass
class FaultList:
    """The faults that were asked for, oldest first."""

    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, step: str, path: str) -> Fault | None:
        """The fault that this request meets, if any."""
        with self.lock:
            for fault in self.faults:
                if fault.step != step or fault.path not in path or fault.times == fault.fired:
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.fired += 1
                return fault
        return None


def fault_answer(fault: Fault, repo_url: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body as the Hub, or a gateway before it, would send them."""
    phrase = HTTPStatus(fault.status).phrase
    message = MESSAGES.get(fault.status, phrase)
    headers = {"X-Request-Id": "Root=1-injected-fault"}
    if fault.status >= 500 or fault.status == 413:
        return fault.status, headers | {"Content-Type": "text/html"} | _retry(fault), f"<h1>{phrase}</h1>".encode()
    body: dict[str, str] = {"error": message}
    if fault.status == 404:
        headers["X-Error-Code"] = "RepoNotFound"
    if fault.status == 409 and fault.step == "create":
        body = {"error": "You already created this model repo", "url": repo_url}
    headers |= {"X-Error-Message": body["error"], "Content-Type": "application/json"} | _retry(fault)
    return fault.status, headers, json.dumps(body).encode()


def _retry(fault: Fault) -> dict[str, str]:
    if fault.status == 429:
        return {"RateLimit": '"api";r=0;t=0', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    return {"Retry-After": "0"} if fault.status == 503 else {}


@dataclass(frozen=True)
class LoggedRequest:
    """One request as it arrived; `token` is what the client sent, `status` 0 if it got no answer."""

    step: str
    method: str
    path: str
    query: dict[str, list[str]]
    host: str
    token: str | None
    body_bytes: int
    status: int
    fault: str | None


class RequestLog(list[LoggedRequest]):
    """The requests in the order in which they were answered."""

    def of(self, *steps: str) -> list[LoggedRequest]:
        return [request for request in self if request.step in steps]

    def counts(self) -> Counter[str]:
        return Counter(request.step for request in self)

    def uploaded_bytes(self) -> int:
        """Bytes of file content received: large files, and regular ones inside commits."""
        return sum(request.body_bytes for request in self.of("lfs_upload", "commit"))
