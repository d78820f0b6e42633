"""What a push says of each fault at each of its steps: the start of its one line."""

import re

from transformers_lighttoken.hub.pictures import PATHS

BASE = "bob/base"
_FILE = "(?:" + "|".join(re.escape(name) for name in ("model.safetensors", *PATHS)) + ")"
_OF_BASE = r"read README\.md of the base model"
# Step -> what could not be done
_ACTIONS = {
    "whoami": "ask who the token belongs to",
    "repo_info": "look it up",
    "refs": "list its branches",
    "download": r"read config\.json",
    "validate_yaml": "have the card checked",
    "create": "create the repository",
    "preupload": "upload the files",
    "batch": "upload the files",
    "lfs_upload": f"upload {_FILE}",
    "lfs_complete": f"upload {_FILE}",
    "verify": f"upload {_FILE}",
    "branch": "create the branch 'v2'",
    "commit": "commit the files",
}
_BROKE_OFF = r"the connection broke off\. Repeat it\. What has arrived is not sent again\."
_TROUBLE = "the Hub itself is in trouble \\(HTTP {fault}\\)\\. Repeat in a few minutes\\."
_MEANWHILE = r"somebody else committed to it meanwhile, so nothing was changed \(HTTP 412\)\. Repeat: it starts"
# Fault -> what happened, and the remedy
_REASONS = {
    "401": r"the Hub does not accept the token \(HTTP 401\)\. Log in with `hf auth login`, or pass a token made at",
    "403": r"the token may only read, it lacks the permission `write` \(HTTP 403\)\. Use a token with write permission",
    "404": r"there is no such repository, or the token cannot see it \(HTTP 404\)\. Check the name\. Log in with",
    "409": r"it is there already, or another operation changes it right now \(HTTP 409\)\. Wait a moment and repeat\.",
    "412": _MEANWHILE,
    "413": r"the request is too large for the Hub \(HTTP 413\)\. Save the model in smaller files \(max_shard_size\)",
    "429": r"too many requests were made \(HTTP 429\)\. Wait a minute and repeat\. What has arrived is not sent",
    **{status: _TROUBLE.format(fault=status) for status in ("500", "503", "504")},
    "timeout": r"the Hub did not answer in time\. Check the connection and repeat\. What has arrived is not sent",
    "drop": _BROKE_OFF,
    "lost_answer": _BROKE_OFF,
    "truncate": _BROKE_OFF,
    "corrupt": r"the answer is not the Hub's \(UnicodeDecodeError: .*\)\. Repeat later, and check the proxy settings",
    "race": _MEANWHILE,
}
_SIGNED = r"the storage host refuses the signed address, which may have expired \(HTTP {0}\)\. Repeat it: a new one is"
_OF_STEP = {
    **{("lfs_upload", status): _SIGNED.format(status) for status in ("401", "403", "404")},
    ("lfs_upload", "corrupt"): r"the Hub refuses the request \(HTTP 400\)\. Correct what it names .*\"BadDigest: ",
    ("repo_info", "404"): r"though it was created\. Wait a moment and repeat\.",
    ("download", "corrupt"): r"what arrived is damaged\. Repeat it\.",
}
# While the base model's card is read
_OF_CARD = {
    "403": rf"access to it is restricted \(HTTP 403\)\. Ask for access at http://\S+/{BASE}, or pass license=",
    "timeout": _BROKE_OFF,  # the client has a time limit of its own for this request
    "corrupt": r"it arrives damaged\. Repeat it\.",
}
_NO_CARD = f"error: license is not known: none was found in a card of {BASE}, and none was given. Look up the"


def expected_line(repo_id: str, step: str, fault: str, of_base: bool) -> re.Pattern[str]:
    """The start of the line that a push says.

    Args:
        repo_id: where it goes.
        step: where the fault is met.
        fault: an HTTP status or a mode of the server's faults.
        of_base: whether it is met while the base model's card is read.
    """
    if of_base:
        if fault == "404":
            return re.compile(re.escape(_NO_CARD))
        return re.compile(f"error: {BASE}: could not {_OF_BASE}, {_OF_CARD.get(fault, _REASONS[fault])}")
    action = _ACTIONS[step]
    reason = _OF_STEP.get((step, fault), _REASONS[fault])
    if (step, fault) == ("create", "409"):  # it is said to be there, and is not
        action, reason = _ACTIONS["repo_info"], _OF_STEP["repo_info", "404"]
    return re.compile(f"error: {repo_id}: could not {action}, {reason}")
