"""File content of the loopback Hub: downloads, and uploads of large files (LFS, in one piece or in parts)."""

import hashlib
from typing import Any
from urllib.parse import quote

from tests.hub_http import Call, Reply, name_of
from tests.hub_store import HubRefusal, HubStore, StoredFile


def resolve(hub: HubStore, call: Call, repo_id: str, revision: str, path: str) -> Reply:
    """A regular file itself; a redirect to the storage host for a large one."""
    commit = hub.readable_files(repo_id, call.token).resolve(name_of(revision))
    file = commit.files.get(name_of(path))
    if file is None:
        message = f"Entry not found: {name_of(path)}"
        refusal = Reply.of_refusal(HubRefusal(404, message, "EntryNotFound"))
        refusal.headers["X-Repo-Commit"] = commit.id
        return refusal
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.sha256 or file.blob_id}"'}
    if file.sha256 is None:
        return Reply.of_bytes(file.data, call, headers)
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
    return Reply(302, b"", headers | {"Location": _download_url(hub, repo_id, path, file)})


def _download_url(hub: HubStore, repo_id: str, path: str, file: StoredFile) -> str:
    return f"{hub.storage_url}/storage/{repo_id}/{file.sha256}/{path}?signature={hub.signature}"


def _refuse_without_signature(hub: HubStore, call: Call) -> None:
    """The storage host takes a signed address and nothing else: a token has no business there."""
    if call.query.get("signature") != [hub.signature]:
        raise HubRefusal(403, "SignatureDoesNotMatch")
    if call.headers.get("Authorization"):
        raise HubRefusal(400, "Only one auth mechanism allowed")


def storage_get(hub: HubStore, call: Call, repo_id: str, sha256: str) -> Reply:
    _refuse_without_signature(hub, call)
    return Reply.of_bytes(hub.repos[repo_id].large_files[sha256], call, {"ETag": f'"{sha256}"'})


def batch(hub: HubStore, call: Call, repo_id: str) -> Reply:
    """Says for each large file whether and where to upload it."""
    wanted = call.json()
    revision = wanted.get("ref", {}).get("name", "")
    repo = hub.writable_repo(repo_id, call.token, create_pr="ref" not in wanted, revision=revision)
    objects = []
    for item in wanted["objects"]:
        answer = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in repo.large_files:
            answer["actions"] = _upload_actions(hub, repo_id, item["oid"], item["size"])
        objects.append(answer)
    return Reply.of_json({"transfer": "basic", "objects": objects})


def _upload_actions(hub: HubStore, repo_id: str, sha256: str, size: int) -> dict[str, Any]:
    target = f"{hub.storage_url}/storage/{repo_id}/{sha256}"
    signature = f"signature={hub.signature}"
    upload: dict[str, Any] = {"href": f"{target}?{signature}"}
    if size > hub.upload_part_bytes:
        parts = range(1, -(-size // hub.upload_part_bytes) + 1)
        addresses = {f"{part:05d}": f"{target}?part={part}&{signature}" for part in parts}
        complete = f"{hub.url}/api/complete_multipart/{quote(repo_id, safe='')}?{signature}"
        upload = {"href": complete, "header": {"chunk_size": str(hub.upload_part_bytes), **addresses}}
    return {"upload": upload, "verify": {"href": f"{hub.url}/{repo_id}.git/info/lfs/objects/verify"}}


def storage_put(hub: HubStore, call: Call, repo_id: str, sha256: str) -> Reply:
    _refuse_without_signature(hub, call)
    if part := call.query.get("part"):
        hub.upload_parts.setdefault((repo_id, sha256), {})[int(part[0])] = call.body
        return Reply(200, b"", {"ETag": _part_etag(call.body)})
    _store(hub, repo_id, sha256, call.body)
    return Reply(200, b"", {"ETag": f'"{sha256}"'})


def _part_etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _store(hub: HubStore, repo_id: str, sha256: str, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise HubRefusal(400, "BadDigest: the content does not have the announced sha256")
    hub.repos[repo_id].large_files[sha256] = data


def complete(hub: HubStore, call: Call, repo_id: str) -> Reply:
    """Puts the parts of a large file together, in the order and with the ETags that the client names."""
    if call.query.get("signature") != [hub.signature]:
        raise HubRefusal(403, "SignatureDoesNotMatch")
    wanted, repo_id = call.json(), name_of(repo_id)
    parts = hub.upload_parts.get((repo_id, wanted["oid"]), {})
    listed = [(int(part["partNumber"]), part["etag"]) for part in wanted["parts"]]
    if [(number, _part_etag(data)) for number, data in sorted(parts.items())] != listed:
        raise HubRefusal(400, "InvalidPart: a part is missing or has another ETag")
    _store(hub, repo_id, wanted["oid"], b"".join(parts[number] for number, _ in listed))
    del hub.upload_parts[repo_id, wanted["oid"]]
    return Reply.of_json({})


def verify(hub: HubStore, call: Call, repo_id: str) -> Reply:
    wanted = call.json()
    repo = hub.writable_repo(repo_id, call.token, create_pr=True)
    stored = repo.large_files.get(wanted["oid"])
    if stored is None or len(stored) != wanted["size"]:
        raise HubRefusal(404, "The large file is not stored, or has another size")
    return Reply.of_json({})
