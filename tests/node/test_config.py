"""node.toml and the environment: what is understood, and how the rest is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from node.config import (
    SECTIONS,
    Config,
    ConfigError,
    load_config,
    parse_config,
    parse_listen,
    render_config,
    require_development,
)

PATH = Path("/somewhere/node.toml")
ROOT = Path(__file__).parent.parent.parent


def refusal(text: str = "", **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, PATH, environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_empty_file_gives_the_defaults() -> None:
    assert parse_config("", PATH, {}) == Config(directory=PATH.parent)


def test_the_written_template_reads_back_as_itself_and_explains_every_key() -> None:
    config = parse_config('[node]\nroles = ["worker"]\n[api]\nsocket = "a\\"b"\n', PATH, {})
    text = render_config(config)
    assert parse_config(text, PATH, {}) == config
    lines = text.splitlines()
    keys = [index for index, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert len(keys) == sum(len(kind.__struct_fields__) for kind in SECTIONS.values())
    assert all(lines[index - 1].startswith("# ") for index in keys)


@pytest.mark.parametrize("name", ["worker.toml", "validator.toml"])
def test_the_examples_are_valid(name: str) -> None:
    path = ROOT / "configs" / "nodes" / name
    assert load_config(path, {}).node.roles == (name.removesuffix(".toml"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[p2p]\nlisten_prt = 1", "unknown key `listen_prt` in [p2p] of /somewhere/node.toml (did you mean `listen`?)"),
        ("[wroker]", "unknown section [wroker] in /somewhere/node.toml (did you mean [worker]?)"),
        ("roles = []", "key `roles` stands outside any section in /somewhere/node.toml"),
        ("[api", "/somewhere/node.toml is not valid TOML"),
        ("[learner]\nthreads = 'two'", "`threads` in [learner] of /somewhere/node.toml: expected int, got str"),
        ("[learner]\nthreads = true", "`threads` in [learner] of /somewhere/node.toml: expected int, got bool"),
        ("[learner]\nthreads = 0", "`threads` in [learner] of /somewhere/node.toml: expected int >= 1"),
        ("[learner]\ndevice = 'gpu'", "`device` in [learner] of /somewhere/node.toml: 'gpu' is wrong; use auto, cpu"),
        ("[node]\nroles = ['miner']", "'miner' is none of validator, worker, learning_server, observer"),
        ("[node]\nroles = 'worker'", "`roles` in [node] of /somewhere/node.toml: expected array, got str"),
        ("[node]\nroles = []", "`roles` in [node] of /somewhere/node.toml is empty"),
        ("[log]\nlevel = 'loud'", "'loud' is none of debug, info, warning, error"),
        ("[api]\nhttp_listen = '0.0.0.0:80'", "0.0.0.0 is not a loopback address"),
        ("[api]\nhttp_listen = '127.0.0.1'", "`http_listen` in [api] of /somewhere/node.toml"),
        ("[api]\nhttp_listen = '127.0.0.1:99999'", "the port is missing or not a number up to 65535"),
        ("[p2p]\nlisten = 'somewhere'", "[p2p] of /somewhere/node.toml: p2p.listen"),
        (f"[api]\nsocket = '{'x' * 120}'", "is longer than 107 bytes"),
    ],
)
def test_every_mistake_is_one_line_that_names_the_key_and_the_file(text: str, message: str) -> None:
    assert message in refusal(text)


def test_the_environment_wins_over_the_file() -> None:
    environ = {
        "FLNODE_LEARNER__THREADS": "3",
        "FLNODE_NODE__ROLES": "worker, validator",
        "FLNODE_WORKER__ENROL": "false",
        "FLNODE_API__SOCKET": "/run/flnode.sock",
        "FLNODE_P2P__REDIAL_MAX_S": "2",
        "FLNODE_CONFIG": "not a key",
        "HOME": "/root",
    }
    config = parse_config("[learner]\nthreads = 1\n", PATH, environ)
    assert config.learner.threads == 3
    assert config.node.roles == ("worker", "validator")
    assert config.worker.enrol is False
    assert config.socket_path == Path("/run/flnode.sock")
    assert config.p2p.redial_max_s == 2.0


def test_a_mistake_in_the_environment_names_the_variable() -> None:
    unknown = refusal(FLNODE_LERNER__THREADS="1")
    assert unknown == "unknown environment variable FLNODE_LERNER__THREADS (did you mean `FLNODE_LEARNER__THREADS`?)"
    assert "environment variable FLNODE_LEARNER__THREADS: 'many'" in refusal(FLNODE_LEARNER__THREADS="many")
    assert "environment variable FLNODE_LEARNER__THREADS: expected int" in refusal(FLNODE_LEARNER__THREADS="-1")


def test_paths_start_at_the_files_directory() -> None:
    config = parse_config("[node]\nchain = 'db'\naccount_key = '/safe/key'\n", PATH, {})
    assert config.chain_path == Path("/somewhere/db")
    assert config.account_key_path == Path("/safe/key")


def test_a_directory_stands_for_its_node_toml(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[log]\nlevel = 'debug'\n")
    assert load_config(tmp_path, {}) == load_config(tmp_path / "node.toml", {})
    assert load_config(tmp_path, {}).directory == tmp_path


@pytest.mark.parametrize("content", [None, b"\xff\xff", b"#" * (1 << 20) + b"##"])
def test_a_file_that_cannot_be_a_config_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "node.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"node\.toml"):
        load_config(tmp_path, {})


@pytest.mark.parametrize("behaviour", ["copier", "lazy"])
def test_misbehaviour_needs_a_development_network(behaviour: str) -> None:
    config = parse_config(f"[misbehaviour]\nbehaviour = '{behaviour}'\n", PATH, {})
    require_development(config, "play", development=True)
    with pytest.raises(ConfigError, match=f"'{behaviour}', but network 'real' is not marked"):
        require_development(config, "real", development=False)
    require_development(parse_config("", PATH, {}), "real", development=False)


def test_ipv6_loopback_is_loopback_too() -> None:
    assert parse_listen("[::1]:80") == ("::1", 80)
    with pytest.raises(ValueError, match="not a loopback"):
        parse_listen("[::]:80")


def test_the_template_is_plain_toml() -> None:
    assert set(tomllib.loads(render_config(Config(directory=PATH.parent)))) == set(SECTIONS)
