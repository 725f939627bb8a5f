"""deploy/terraform/ fits deploy/cloud-init.yaml: its parser takes longer than the tests of the unit layer may."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.server_files import CLOUD_INIT, ROOT, TERRAFORM, labelled, terraform, variables

pytestmark = pytest.mark.long


def resource(kind: str) -> dict[str, Any]:
    """The arguments of the only resource of that type."""
    return labelled([labelled(terraform("main.tf")["resource"])[kind]])["server"]


def terraform_variables() -> dict[str, dict[str, Any]]:
    return labelled(terraform("variables.tf")["variable"])


def test_terraform_fills_in_what_names_the_server() -> None:
    (found,) = terraform("main.tf")["locals"]
    assert set(found["server"]) == set(variables("/etc/issuer/server.env"))
    for name in found["server"]:
        assert CLOUD_INIT.read_text().count(f"\n      {name}=") == 1, name


def test_only_the_web_is_open_to_the_world() -> None:
    rules = resource("linode_firewall")
    assert rules["inbound_policy"] == '"DROP"'
    opened = {rule["protocol"]: rule.get("ports") for rule in rules["inbound"]}
    assert opened == {'"TCP"': '"80, 443"', '"UDP"': '"443"', '"ICMP"': None}
    (ssh,) = rules["dynamic"]
    (rule,) = ssh['"inbound"']["content"]
    assert (rule["ports"], rule["ipv4"], rule["ipv6"]) == ('"22"', "${local.ssh_v4}", "${local.ssh_v6}")


def test_a_change_of_the_user_data_does_not_replace_the_machine() -> None:
    (lifecycle,) = resource("linode_instance")["lifecycle"]
    assert set(lifecycle["ignore_changes"]) >= {"metadata", "image"}


def test_every_variable_is_used_described_and_documented() -> None:
    texts = {path.name: path.read_text() for path in TERRAFORM.glob("*.tf")}
    page = (ROOT / "docs" / "deployment.md").read_text()
    for name, variable in terraform_variables().items():
        assert any(f"var.{name}" in text for file, text in texts.items() if file != "variables.tf"), name
        assert variable["description"], name
        assert f"`{name}`" in page, name
    assert terraform_variables()["token"]["sensitive"] is True
