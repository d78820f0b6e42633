"""One request and one reply of the loopback Hub, and how bytes are read and sent."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from io import BufferedIOBase
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_store import HubRefusal

BLOCK = 64 * 1024


@dataclass(frozen=True)
class Call:
    """A request: `query` holds lists, `token` the bearer token as it was sent."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes = b""

    @classmethod
    def from_target(cls, method: str, target: str, headers: Message) -> "Call":
        parts = urlsplit(target)
        return cls(method, parts.path, parse_qs(parts.query), headers)

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in ("1", "true")


@dataclass
class Reply:
    """A reply; `body` is sent for GET, and only measured for HEAD."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Reply":
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    @classmethod
    def of_refusal(cls, refusal: HubRefusal) -> "Reply":
        headers = {"X-Error-Message": refusal.message.splitlines()[0]}
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
        return cls.of_json({"error": refusal.message, **refusal.body}, refusal.status, headers)

    @classmethod
    def of_bytes(cls, data: bytes, call: Call, headers: dict[str, str]) -> "Reply":
        """File content, or the part of it that a `Range: bytes=first-[last]` header asks for."""
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        wanted = call.headers.get("Range", "")
        if not wanted.startswith("bytes="):
            return cls(200, data, headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first or 0), min(int(last or len(data) - 1) + 1, len(data))
        if start >= len(data):
            return cls(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        return cls(206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})


def read_body(stream: BufferedIOBase, headers: Message, share: float = 1.0) -> bytes:
    """Reads a request's body, of known length or chunked; with `share` < 1 stops there."""
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        chunks = list(_chunks(stream))
        return b"".join(chunks[: max(1, int(len(chunks) * share))])
    left = int(int(headers.get("Content-Length") or 0) * share)
    blocks = []
    while left > 0 and (block := stream.read(min(left, BLOCK))):
        blocks.append(block)
        left -= len(block)
    return b"".join(blocks)


def _chunks(stream: BufferedIOBase) -> Iterator[bytes]:
    while size := int(stream.readline().split(b";")[0], 16):
        yield stream.read(size)
        stream.readline()
    stream.readline()


def flip_middle_byte(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :] if data else data


def name_of(quoted: str) -> str:
    """A path or revision as it stands in an address, unquoted."""
    return unquote(quoted)
