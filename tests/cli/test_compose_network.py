"""The containers without an engine: what compose.yaml and Dockerfile say, and the nodes' directories."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chain.genesis import parse_network
from cli.compose_network import PORT, create_compose_network, main
from cli.demo_job import JOB, TERMS
from cli.demo_network import MEMBERS
from cli.errors import UserError
from cli.jobfile import load_job
from node.config import load_config, require_development
from node.keys import account_address, load_account_key, load_p2p_key, peer_id

ROOT = Path(__file__).parents[2]
NOW = 1_790_000_000


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """compose.yaml as docker compose understands it."""
    command = shutil.which("docker-compose", path=str(Path(sys.executable).parent)) or "docker-compose"
    ours = ("BASE", "FLNODE_", "PIP_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    line = [command, "--file", str(ROOT / "compose.yaml"), "config", "--format", "json"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    for member in MEMBERS:
        (tmp_path / member.name).mkdir()  # as an empty volume is
    assert len(create_compose_network(tmp_path, MEMBERS, NOW)) == len(MEMBERS)
    return tmp_path


def test_compose_runs_every_member_of_the_demo_with_a_volume_of_its_own(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"keys"} | {member.name for member in MEMBERS}
    for member in MEMBERS:
        mounts = {mount["target"]: mount["source"] for mount in services[member.name]["volumes"]}
        assert mounts.pop("/data") == member.name
        assert set(mounts) <= ({"/jobs"} if member.name == "server" else set())
        assert services[member.name]["depends_on"]["keys"]["condition"] == "service_completed_successfully"
        assert "user" not in services[member.name]  # the image's own, which is not root
        assert services[member.name]["healthcheck"]["test"][1:] == ["flnode", "status", "--json"]


def test_only_the_service_that_makes_the_keys_sees_them_all_and_it_has_no_network(compose: dict[str, Any]) -> None:
    keys = compose["services"]["keys"]
    targets = {mount["source"]: mount["target"] for mount in keys["volumes"]}
    assert targets == {member.name: f"/network/{member.name}" for member in MEMBERS}
    assert keys["network_mode"] == "none"
    assert keys["entrypoint"][:4] == ["python", "-m", "cli.compose_network", "/network"]


def test_the_nodes_user_is_the_same_in_image_and_compose(compose: dict[str, Any]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    owner = compose["services"]["keys"]["entrypoint"][-1]
    assert f"useradd --uid {owner} " in dockerfile
    assert f"\nUSER {owner}\n" in dockerfile
    assert f"\nEXPOSE {PORT}\n" in dockerfile


def test_the_image_holds_every_package() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"\nCOPY {package} ./{package}\n" in dockerfile
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert not {"configs", "README.md", "LICENSE", "constraints.txt", "build"} & set(ignored)


def test_the_nodes_find_each_other_by_the_names_of_their_services(nodes: Path) -> None:
    texts = {(nodes / member.name / "network.toml").read_text() for member in MEMBERS}
    assert len(texts) == 1
    network = parse_network(texts.pop())
    assert network.timestamp == NOW
    validators = [member for member in MEMBERS if member.validates]
    for entry, member in zip(network.validators, validators, strict=True):
        config = load_config(nodes / member.name, {})
        assert entry.address == account_address(load_account_key(config.account_key_path))
        assert entry.p2p == f"/dns4/{member.name}/tcp/{PORT}/p2p/{peer_id(load_p2p_key(config.p2p_key_path))}"
        assert config.p2p.listen == f"/ip4/0.0.0.0/tcp/{PORT}"
    assert len(network.balances) == len(MEMBERS)


def test_each_node_behaves_as_its_name_says_and_its_keys_are_its_own(nodes: Path) -> None:
    for member in MEMBERS:
        config = load_config(nodes / member.name, {})
        require_development(config, "compose", development=True)
        assert config.misbehaviour.behaviour == ("none" if member.behaviour == "honest" else member.behaviour)
        assert config.node.roles == member.roles
        assert stat.S_IMODE(config.account_key_path.stat().st_mode) == 0o600


def test_a_network_that_is_there_is_left_as_it_is(nodes: Path) -> None:
    before = {path: path.read_bytes() for path in nodes.rglob("*") if path.is_file()}
    assert create_compose_network(nodes, MEMBERS, NOW + 1) == []
    assert {path: path.read_bytes() for path in nodes.rglob("*") if path.is_file()} == before


def test_a_part_of_a_network_is_refused_and_left_as_it_is(nodes: Path) -> None:
    shutil.rmtree(nodes / "lazy")
    with pytest.raises(UserError, match=r"holds only a part of a network .*copier"):
        create_compose_network(nodes, MEMBERS, NOW)
    assert not (nodes / "lazy").exists()


def test_the_command_gives_the_files_to_the_nodes_user(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path), "--owner", str(os.getuid())])
    assert done.exit_code == 0, done.output
    assert done.output == f"{len(MEMBERS)} nodes made in {tmp_path}\n"
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {os.getuid()}
    assert "are there already" in CliRunner().invoke(main, [str(tmp_path), "--owner", "0"]).output
    (tmp_path / "copier" / "node.toml").unlink()
    refused = CliRunner().invoke(main, [str(tmp_path), "--owner", "0"])
    assert refused.exit_code != 0
    assert "only a part of a network" in refused.output


def test_the_containers_job_is_the_demos() -> None:
    path = ROOT / "configs" / "jobs" / "five-workers.toml"
    written = tomllib.loads(path.read_text())
    load_job(path, NOW)
    assert {key: written["job"][key] for key in JOB} == JOB
    assert {key: written["terms"][key] for key in TERMS} == TERMS
