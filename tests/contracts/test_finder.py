"""The list of open jobs, which workers of every kind of job share."""

from __future__ import annotations

from chain.contracts import bindings as b
from tests.contracts.world import OWNER, World


def open_jobs(world: World) -> list[int]:
    count = world.evm.query(b.open_count_view())
    return [world.evm.query(b.open_at_view(place)).job for place in range(count)]


def test_the_last_listing_takes_the_place_of_one_that_goes() -> None:
    world = World()
    for _ in range(4):
        world.post()
    assert open_jobs(world) == [1, 2, 3, 4]
    world.do(OWNER, b.cancel(2))
    assert open_jobs(world) == [1, 4, 3]
    world.do(OWNER, b.cancel(3))
    assert open_jobs(world) == [1, 4]
    world.do(OWNER, b.cancel(1))
    world.do(OWNER, b.cancel(4))
    assert open_jobs(world) == []


def test_pages_end_where_the_list_does_and_hold_fifty_at_most() -> None:
    world = World()
    for _ in range(53):
        world.post()

    def page(start: int, count: int) -> list[int]:
        return [listing.job for listing in world.evm.query(b.open_page_view(start, count))]

    assert page(0, 3) == [1, 2, 3]
    assert page(0, 2**256 - 1) == list(range(1, 51))
    assert page(50, 50) == [51, 52, 53]
    assert page(53, 50) == []
    assert page(2**256 - 1, 1) == []


def test_a_listing_names_kind_and_contract() -> None:
    world = World()
    job = world.post()
    assert world.evm.query(b.open_at_view(0)) == b.Listing(b.REPLICATED_KIND, b.REPLICATED, job)
