"""The Hub's API: accounts, repositories, trees, commits."""

import base64
import json
import re
from typing import Any
from urllib.parse import parse_qs, urlencode

from tests.hub_card_rules import check_card, front_matter
from tests.hub_http import Call, Reply, name_of
from tests.hub_store import (
    Commit,
    HubRefusal,
    HubStore,
    Repo,
    StoredFile,
    is_large_file,
    timestamp,
)

STALE_PARENT = "A commit has happened since. Please refresh and try again."


def whoami(hub: HubStore, call: Call) -> Reply:
    account = hub.known_account(call.token)
    roles = hub.organisations[account.user]
    access: dict[str, Any] = {"displayName": "test", "role": account.role, "createdAt": timestamp()}
    if account.role == "fineGrained":
        scope = {"entity": {"type": "user", "name": account.user}, "permissions": list(account.permissions)}
        access["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": [scope]}
    orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in roles.items()]
    auth = {"type": "access_token", "accessToken": access}
    return Reply.of_json({"type": "user", "name": account.user, "orgs": orgs, "auth": auth})


def create(hub: HubStore, call: Call) -> Reply:
    wanted = call.json()
    account = hub.known_account(call.token)
    namespace = wanted.get("organization") or account.user
    if wanted.get("type", "model") != "model":
        raise HubRefusal(400, f"This Hub keeps models alone, not a {wanted['type']}")
    hub.require_namespace(namespace, call.token, "create")
    repo_id = f"{namespace}/{wanted['name']}"
    if repo_id in hub.repos:
        raise HubRefusal(409, "You already created this model repo", url=f"{hub.url}/{repo_id}")
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))  # huggingface_hub 2 and 1
    hub.create_repo(repo_id, private=private, author=account.user)
    return Reply.of_json({"url": f"{hub.url}/{repo_id}", "name": repo_id, "id": repo_id})


def delete(hub: HubStore, call: Call) -> Reply:
    wanted = call.json()
    namespace = wanted.get("organization") or hub.known_account(call.token).user
    repo = hub.readable_repo(f"{namespace}/{wanted['name']}", call.token)
    hub.require_namespace(namespace, call.token, "delete")
    del hub.repos[repo.id]
    return Reply.of_json({})


def move(hub: HubStore, call: Call) -> Reply:
    wanted = call.json()
    repo = hub.readable_repo(wanted["fromRepo"], call.token)
    for name in (repo.id, wanted["toRepo"]):
        hub.require_namespace(name.split("/")[0], call.token, "move")
    if wanted["toRepo"] in hub.repos:
        raise HubRefusal(409, f"{wanted['toRepo']} exists already")
    hub.rename_repo(repo.id, wanted["toRepo"])
    return Reply.of_json({})


def redirect(hub: HubStore, call: Call) -> Reply | None:
    """Sends a request for a repository under a former name to its name now, with method and body."""
    match = re.match(r"(?:/api/models)?/([^/]+/[^/]+?)(?=\.git/|/|$)", call.path)
    if match is None or match.group(1) not in hub.renamed:
        return None
    now = hub.readable_repo(hub.renamed[match.group(1)], call.token).id
    query = f"?{urlencode(call.query, doseq=True)}" if call.query else ""
    path = call.path[: match.start(1)] + now + call.path[match.end(1) :]
    return Reply(307, b"", {"Location": path + query})


def validate_yaml(hub: HubStore, call: Call) -> Reply:
    errors, warnings = check_card(call.json()["content"])
    content = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return Reply.of_json(content, 400 if errors else 200)


def repo_info(hub: HubStore, call: Call, repo_id: str, revision: str = "main") -> Reply:
    repo = hub.readable_repo(repo_id, call.token)
    commit = repo.resolve(name_of(revision))
    card = commit.files.get("README.md")
    data = (front_matter(card.data.decode()) or {}) if card else {}
    siblings = []
    for path, file in sorted(commit.files.items()):
        row: dict[str, Any] = {"rfilename": path}
        if call.flag("blobs"):
            row |= {"size": len(file.data), "blobId": file.blob_id}
            row |= {"lfs": _lfs_row(file) | {"sha256": file.sha256}} if file.sha256 else {}
        siblings.append(row)
    info = {"id": repo.id, "author": repo.owner, "sha": commit.id, "siblings": siblings, "tags": data.get("tags", [])}
    info |= {"private": repo.private, "gated": "manual" if repo.gated else False}
    info |= {"disabled": False, "lastModified": commit.date}
    info |= {"cardData": data} if data else {}
    info |= {key: data[key] for key in ("library_name", "pipeline_tag") if key in data}
    return Reply.of_json(info)


def commits(hub: HubStore, call: Call, repo_id: str, revision: str) -> Reply:
    history = hub.readable_repo(repo_id, call.token).history(name_of(revision))
    rows = [{"id": c.id, "authors": [{"user": c.author}], "date": c.date} for c in history]
    texts = [{"title": c.title, "message": c.description} for c in history]
    return Reply.of_json([row | text for row, text in zip(rows, texts, strict=True)])


def tree(hub: HubStore, call: Call, repo_id: str, revision: str, folder: str = "") -> Reply:
    repo = hub.readable_repo(repo_id, call.token)
    commit, folder = repo.resolve(name_of(revision)), name_of(folder)
    rows = [row for row in _all_rows(repo, commit, call.flag("expand")) if _is_inside(row["path"], folder, call)]
    if folder and not rows:
        raise HubRefusal(404, f"{folder} does not exist on {name_of(revision)}", "EntryNotFound")
    first = int(call.query.get("cursor", ["0"])[0])
    last = first + hub.tree_page_size
    headers = {}
    if last < len(rows):
        query = urlencode(call.query | {"cursor": [str(last)]}, doseq=True)
        headers["Link"] = f'<{hub.url}{call.path}?{query}>; rel="next"'
    return Reply.of_json(rows[first:last], headers=headers)


def _is_inside(path: str, folder: str, call: Call) -> bool:
    if folder and not path.startswith(folder + "/"):
        return False
    return call.flag("recursive") or "/" not in path.removeprefix(folder + "/" if folder else "")


def _all_rows(repo: Repo, commit: Commit, expand: bool) -> list[dict[str, Any]]:
    folders = {path[:i] for path in commit.files for i, letter in enumerate(path) if letter == "/"}
    rows = [{"type": "directory", "path": path, "size": 0, "oid": commit.id} for path in folders]
    rows += [_file_row(repo, path, file, expand) for path, file in commit.files.items()]
    return sorted(rows, key=lambda row: row["path"])


def _lfs_row(file: StoredFile) -> dict[str, Any]:
    return {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}


def _file_row(repo: Repo, path: str, file: StoredFile, expand: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path, "size": len(file.data), "oid": file.blob_id}
    if file.sha256:
        row["lfs"] = _lfs_row(file)
    if expand:
        last = repo.commits[file.commit]
        row["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
    return row


def paths_info(hub: HubStore, call: Call, repo_id: str, revision: str) -> Reply:
    repo = hub.readable_repo(repo_id, call.token)
    form = parse_qs(call.body.decode())
    expand = form.get("expand", ["false"])[0].lower() == "true"
    rows = _all_rows(repo, repo.resolve(name_of(revision)), expand)
    return Reply.of_json([row for row in rows if row["path"] in form.get("paths", [])])


def refs(hub: HubStore, call: Call, repo_id: str) -> Reply:
    repo = hub.readable_repo(repo_id, call.token)
    kinds = {"branches": ("refs/heads/", repo.branches), "tags": ("refs/tags/", repo.tags), "converts": ("", {})}
    if call.flag("include_prs"):
        kinds["pullRequests"] = ("", repo.pull_requests)
    return Reply.of_json(
        {
            kind: [{"name": name, "ref": prefix + name, "targetCommit": target} for name, target in names.items()]
            for kind, (prefix, names) in kinds.items()
        }
    )


def discussions(hub: HubStore, call: Call, repo_id: str) -> Reply:
    """The pull requests: there are no other discussions here."""
    repo = hub.readable_repo(repo_id, call.token)
    rows = [
        {"num": int(ref.rsplit("/", 1)[-1]), "title": c.title, "author": {"name": c.author}, "createdAt": c.date}
        for ref, c in repo.proposals.items()
    ]
    same = {"status": "open", "isPullRequest": True, "repo": {"name": repo.id, "type": "model"}}
    return Reply.of_json({"discussions": [row | same for row in rows], "count": len(rows), "start": 0})


def create_branch(hub: HubStore, call: Call, repo_id: str, branch: str) -> Reply:
    repo = hub.writable_repo(repo_id, call.token)
    if name_of(branch) in repo.branches:
        raise HubRefusal(409, f"Reference already exists: refs/heads/{name_of(branch)}")
    repo.branches[name_of(branch)] = repo.resolve(call.json().get("startingPoint", "main")).id
    return Reply.of_json({})


def create_tag(hub: HubStore, call: Call, repo_id: str, revision: str) -> Reply:
    repo = hub.writable_repo(repo_id, call.token)
    tag = call.json()["tag"]
    if tag in repo.tags:
        raise HubRefusal(409, f"Tag reference exists already: {tag}")
    repo.tags[tag] = repo.resolve(name_of(revision)).id
    return Reply.of_json({})


def delete_ref(hub: HubStore, call: Call, repo_id: str, kind: str, name: str) -> Reply:
    repo = hub.writable_repo(repo_id, call.token)
    if (repo.branches if kind == "branch" else repo.tags).pop(name_of(name), None) is None:
        raise HubRefusal(404, f"Invalid rev id: {name_of(name)}", "RevisionNotFound")
    return Reply.of_json({})


def preupload(hub: HubStore, call: Call, repo_id: str, revision: str) -> Reply:
    repo = hub.writable_repo(repo_id, call.token, call.flag("create_pr"), name_of(revision))
    present = repo.resolve(name_of(revision)).files
    answers = []
    for wanted in call.json()["files"]:
        large = is_large_file(present, wanted["path"], base64.b64decode(wanted["sample"]), wanted["size"])
        answer = {"path": wanted["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if stored := present.get(wanted["path"]):
            answer["oid"] = stored.sha256 or stored.blob_id
        answers.append(answer)
    return Reply.of_json({"files": answers})


def commit(hub: HubStore, call: Call, repo_id: str, revision: str) -> Reply:
    create_pr, branch = call.flag("create_pr"), name_of(revision)
    repo = hub.writable_repo(repo_id, call.token, create_pr, branch)
    parent = repo.resolve(branch)
    lines = [json.loads(line) for line in call.body.splitlines() if line]
    header = next(line["value"] for line in lines if line["key"] == "header")
    if header.get("parentCommit") not in (None, parent.id):
        raise HubRefusal(412, STALE_PARENT)
    added: dict[str, tuple[bytes, str | None]] = {}
    deleted: list[str] = []
    for line in lines:
        _collect(repo, parent, line["key"], line["value"], added, deleted)
    _check_added(added)
    author = hub.known_account(call.token).user
    description = header.get("description", "")
    made, ref = repo.add_commit(branch, author, header["summary"], added, deleted, description, create_pr)
    answer = {"success": True, "commitOid": made.id, "commitUrl": f"{hub.url}/{repo.id}/commit/{made.id}"}
    if create_pr:
        answer["pullRequestUrl"] = f"{hub.url}/{repo.id}/discussions/{ref.rsplit('/', 1)[-1]}"
    return Reply.of_json(answer)


def _collect(repo: Repo, parent: Commit, key: str, value: dict[str, Any], added: dict, deleted: list[str]) -> None:
    """Turns one line of a commit's body into what it adds and deletes."""
    path = value.get("path", "")
    if key == "file":
        added[path] = (base64.b64decode(value["content"]), None)
    elif key == "lfsFile":
        if value["oid"] not in repo.large_files:
            raise HubRefusal(400, f"LFS pointer of {path} pointed to a file that does not exist")
        added[path] = (repo.large_files[value["oid"]], value["oid"])
    elif key in ("deletedFile", "deletedFolder"):
        folder = path.rstrip("/") + "/"
        gone = [name for name in parent.files if name == path or (key == "deletedFolder" and name.startswith(folder))]
        if not gone:
            raise HubRefusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        deleted.extend(gone)
    elif key != "header":
        raise HubRefusal(400, f"Unknown key in commit: {key}")


def _check_added(added: dict[str, tuple[bytes, str | None]]) -> None:
    if "README.md" in added and (errors := check_card(added["README.md"][0].decode())[0]):
        raise HubRefusal(400, "Invalid metadata in README.md: " + "; ".join(errors))
    for path, (data, sha256) in added.items():
        if sha256 is None and b"\0" in data[:512]:
            raise HubRefusal(400, f"Your push was rejected because it contains binary files: {path}")
