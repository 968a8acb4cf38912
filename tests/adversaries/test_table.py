"""The table of attacks is whole: what it names exists, and what exists is named there and in docs/PROTOCOL.md."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.adversaries.lineup import GAMES
from tests.adversaries.table import ATTACKS, ELSEWHERE, PRICED

ROOT = Path(__file__).parent.parent.parent
ROWS = (*ATTACKS, *ELSEWHERE, *PRICED)


def test_every_row_has_a_name_of_its_own_and_the_protocol_tells_of_it() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    told = " ".join((ROOT / "docs" / "PROTOCOL.md").read_text().split())
    assert [name for name in names if f"| {name} |" not in told] == []


def test_every_test_that_the_table_names_exists() -> None:
    for row in (*ELSEWHERE, *PRICED):
        for named in (row.fails_in, row.succeeds_in):
            module, _, test = named.partition(".")
            room = "node" if module == "test_roles" else "adversaries"
            assert callable(getattr(importlib.import_module(f"tests.{room}.{module}"), test))


def test_whoever_plays_among_real_nodes_is_in_the_table_once() -> None:
    players = [name for game in GAMES for name in game.players]
    assert sorted(name for row in ROWS for name in row.real) == sorted(players)
