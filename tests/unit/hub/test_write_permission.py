"""Tokens that are known to be unable to write are refused before anything is sent."""

from typing import Any

import pytest

from transformers_lighttoken.hub.errors import (
    HubError,
    require_write_permission,
)


class TestWritePermission:
    @staticmethod
    def account(role: str, *scopes: tuple[str, list[str]], org_role: str = "write") -> dict[str, Any]:
        scoped = [{"entity": {"type": "user", "name": name}, "permissions": rights} for name, rights in scopes]
        token = {"role": role} | ({"fineGrained": {"scoped": scoped}} if scopes else {})
        return {"name": "alice", "auth": {"accessToken": token}, "orgs": [{"name": "acme", "roleInOrg": org_role}]}

    @pytest.mark.parametrize("repo_id", ["alice/m", "acme/m", "unknown/m"])
    def test_write_token_passes(self, repo_id: str):
        require_write_permission(self.account("write"), repo_id)

    @pytest.mark.parametrize("create_pr", [False, True])
    def test_read_token_is_refused(self, create_pr: bool):
        with pytest.raises(
            HubError, match=r"^alice/m: could not write, the token may only read, .* permission `write`\."
        ):
            require_write_permission(self.account("read"), "alice/m", create_pr=create_pr)

    @pytest.mark.parametrize("scope", [("alice", ["repo.write"]), ("alice/m", ["repo.content.read", "repo.write"])])
    def test_fine_grained_token_with_the_right_passes(self, scope: tuple[str, list[str]]):
        require_write_permission(self.account("fineGrained", scope), "alice/m")

    @pytest.mark.parametrize(
        "scope", [("alice", ["repo.content.read"]), ("acme", ["repo.write"]), ("alice/n", ["repo.write"])]
    )
    def test_fine_grained_token_without_the_right_is_refused(self, scope: tuple[str, list[str]]):
        with pytest.raises(HubError, match="fine-grained token lacks the permission `repo.write` for alice"):
            require_write_permission(self.account("fineGrained", scope), "alice/m")
        require_write_permission(self.account("fineGrained", scope), "alice/m", create_pr=True)

    def test_reader_of_an_organisation_may_only_propose(self):
        account = self.account("write", org_role="read")
        with pytest.raises(HubError, match="alice has the role `read` in acme, and lacks the role `write`"):
            require_write_permission(account, "acme/m")
        require_write_permission(account, "acme/m", create_pr=True)

    @pytest.mark.parametrize(
        ("scope", "repo_id"),
        [("Alice", "alice/m"), ("alice", "ALICE/m"), ("Alice/M", "alice/m"), ("alice/m", "Alice/M")],
    )
    def test_names_that_differ_in_capital_letters_are_the_same(self, scope: str, repo_id: str):
        require_write_permission(self.account("fineGrained", (scope, ["repo.write"])), repo_id)
        with pytest.raises(HubError, match="fine-grained token lacks the permission `repo.write` for bob"):
            require_write_permission(self.account("fineGrained", (scope, ["repo.write"])), "bob/m")

    def test_role_in_an_organisation_whatever_its_capital_letters(self):
        with pytest.raises(HubError, match="^Acme/m: could not write, alice has the role `read` in Acme, and lacks"):
            require_write_permission(self.account("write", org_role="read"), "Acme/m")

    def test_what_the_answer_leaves_open_is_left_to_the_hub(self):
        require_write_permission({}, "alice/m")
