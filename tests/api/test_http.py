"""The API's doors: who may come in, with what, and what happens at start and end."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from api_kit import JSON, TinyNode, call, config_in, serving

from node.api import jsonrpc
from node.api.http import serve_api
from node.config import Config, ConfigError

HTTP = '[api]\nhttp_listen = "127.0.0.1:0"\nbody_bytes_max = 2000\n'
STATUS = b'{"jsonrpc":"2.0","id":1,"method":"fl_status"}'


@asynccontextmanager
async def over_http(config: Config, node: TinyNode, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(config, node) as addresses:
        assert addresses.http is not None
        async with httpx.AsyncClient(base_url=addresses.http, headers=headers, trust_env=False) as client:
            yield client


@asynccontextmanager
async def over_socket(config: Config, node: TinyNode) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(config, node) as addresses:
        transport = httpx.AsyncHTTPTransport(uds=str(addresses.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            yield client


async def test_the_socket_is_its_owners_alone_and_goes_away_with_the_node(tmp_path: Path, node: TinyNode) -> None:
    config = config_in(tmp_path)
    async with over_socket(config, node) as client:
        assert stat.S_IMODE(config.socket_path.stat().st_mode) == 0o600
        assert "result" in await call(client, "fl_status")
    assert not config.socket_path.exists()


async def test_the_socket_may_change_the_node(tmp_path: Path, node: TinyNode) -> None:
    async with over_socket(config_in(tmp_path), node) as client:
        assert "result" in await call(client, "fl_stop")
    assert node.stopped


async def test_who_stops_the_node_still_gets_the_answer(tmp_path: Path, node: TinyNode) -> None:
    config = config_in(tmp_path, HTTP)
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(serve_api, config, node)
        node.on_stop = nursery.cancel_scope.cancel
        with trio.CancelScope(shield=True):
            transport = httpx.AsyncHTTPTransport(uds=str(addresses.socket))
            async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
                answer = await call(client, "fl_stop")
    assert answer["result"] == {"pid": os.getpid()}
    assert not config.socket_path.exists()


async def test_http_may_read_but_changes_the_node_only_with_the_token(tmp_path: Path, node: TinyNode) -> None:
    config = config_in(tmp_path, HTTP)
    async with over_http(config, node) as client:
        assert "result" in await call(client, "fl_status")
        answer = await call(client, "fl_stop")
        assert answer["error"]["code"] == jsonrpc.NOT_PERMITTED  # type: ignore[index]
        assert not node.stopped
        assert stat.S_IMODE(config.token_path.stat().st_mode) == 0o600
        client.headers["Authorization"] = "Bearer " + config.token_path.read_text().strip()
        assert "result" in await call(client, "fl_stop")
    assert node.stopped


@pytest.mark.parametrize("given", ["Bearer wrong", "Bearer \u00fc", "Basic {token}", "{token} x"])
async def test_a_wrong_token_is_refused_outright(tmp_path: Path, node: TinyNode, given: str) -> None:
    config = config_in(tmp_path, HTTP)
    async with over_http(config, node) as client:
        header = given.format(token=config.token_path.read_text().strip()).encode()
        response = await client.post("/", content=STATUS, headers={**JSON, "Authorization": header})  # type: ignore[dict-item]
        assert response.status_code == 401


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost", 200),
        ("LOCALHOST:8645", 200),
        ("127.0.0.1:8645", 200),
        ("[::1]:8645", 200),
        ("evil.example", 403),
        ("evil.example:8645", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.168.1.5:8645", 403),
        ("", 403),
    ],
)
async def test_a_name_that_is_not_loopback_is_refused(tmp_path: Path, node: TinyNode, host: str, code: int) -> None:
    async with over_http(config_in(tmp_path, HTTP), node, Host=host) as client:
        assert (await client.post("/", content=STATUS, headers=JSON)).status_code == code


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_what_a_web_page_can_send_without_asking_is_refused(tmp_path: Path, node: TinyNode, kind: str) -> None:
    async with over_http(config_in(tmp_path, HTTP), node) as client:
        assert (await client.post("/", content=STATUS, headers={"Content-Type": kind})).status_code == 415
        assert (await client.options("/")).status_code == 405


async def test_a_body_over_the_limit_is_refused_with_or_without_its_length(tmp_path: Path, node: TinyNode) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 500

    async with over_http(config_in(tmp_path, HTTP), node) as client:
        assert (await client.post("/", content=b" " * 2001, headers=JSON)).status_code == 413
        assert (await client.post("/", content=chunks(), headers=JSON)).status_code == 413
        assert (await client.post("/", content=STATUS + b" " * 1500, headers=JSON)).status_code == 200


async def test_garbage_on_the_wire_leaves_the_api_alive(tmp_path: Path, node: TinyNode) -> None:
    async with over_http(config_in(tmp_path, HTTP), node) as client:
        port = client.base_url.port
        assert port is not None
        for garbage in (b"\x00\xff" * 500, b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET /\r\n\r\n"):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(garbage)
            await stream.aclose()
        assert "result" in await call(client, "fl_status")


async def test_a_notification_has_no_body_to_answer_with(tmp_path: Path, node: TinyNode) -> None:
    async with over_socket(config_in(tmp_path), node) as client:
        response = await client.post("/", content=b'{"jsonrpc":"2.0","method":"fl_status"}', headers=JSON)
        assert (response.status_code, response.content) == (204, b"")


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path, node: TinyNode) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"cannot listen on {address}: .*in use; change `http_listen`"):
            await serve_api(config_in(tmp_path, f'[api]\nhttp_listen = "{address}"\n'), node)


async def test_a_second_node_in_the_same_directory_is_refused(tmp_path: Path, node: TinyNode) -> None:
    config = config_in(tmp_path)
    async with over_socket(config, node) as client:
        with pytest.raises(ConfigError, match="a node is already running here"):
            await serve_api(config, node)
        assert "result" in await call(client, "fl_status")


async def test_the_socket_of_a_killed_node_is_taken_over(tmp_path: Path, node: TinyNode) -> None:
    config = config_in(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(config.socket_path))
    async with over_socket(config, node) as client:
        assert "result" in await call(client, "fl_status")


async def test_a_bug_of_ours_does_not_end_the_api(tmp_path: Path, node: TinyNode) -> None:
    async with over_socket(config_in(tmp_path), node) as client:
        node.broken = True
        answer = await call(client, "fl_status")
        assert answer["error"]["code"] == jsonrpc.INTERNAL_ERROR  # type: ignore[index]
        node.broken = False
        assert "result" in await call(client, "fl_status")
