"""Dishonest learning servers: each wants a model without paying for it, or its workers' stakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eth_hash.auto import keccak

from chain.contracts import bindings as b
from node.jobs import REVEAL, RoundView
from tests.adversaries.program import Act, Program, Scene, Send, Serve


@dataclass(frozen=True, slots=True)
class Offer:
    """What an owner posts: an encoded manifest, the base that belongs to it, and terms."""

    manifest: bytes
    manifest_digest: bytes
    base: bytes
    update_size: int
    terms: b.Terms

    def post(self) -> Send:
        seed = keccak(b"seed" + self.manifest_digest)
        return Send("post", b.post(self.manifest_digest, self.base, self.update_size, seed, self.terms))


def owner(act: Callable[[RoundView], Iterator[Act]]) -> Callable[[Offer], Program]:
    """Posts a job, then does this about each of its open rounds."""

    def with_offer(offer: Offer) -> Program:
        def program(scene: Scene) -> Iterator[Act]:
            yield Serve(offer.manifest)
            yield offer.post()
            if scene.view is not None and scene.view.ended is None:
                for _, view in sorted(scene.view.open.items()):
                    yield from act(view)

        return program

    return with_offer


@owner
def refuses_to_pay(view: RoundView) -> Iterator[Act]:
    """Has the model once the majority has revealed; does not finalise, and tries to close the round as void."""
    if view.phase == REVEAL and view.majority is not None:
        yield Send(f"expire {tuple(view.key)}", b.expire(*view.key), again=True)
        yield Send(f"close {tuple(view.key)}", b.close(*view.key), again=True)


@owner
def changes_its_mind(view: RoundView) -> Iterator[Act]:
    """Cancels the job as soon as an update is public."""
    if view.reveals:
        yield Send("cancel", b.cancel(view.key.job))


@owner
def pays(view: RoundView) -> Iterator[Act]:
    """Does what it should, for workers that are its own."""
    if view.phase == REVEAL and view.majority is not None:
        yield Send(f"finalise {tuple(view.key)}", b.finalise(*view.key, False))


@owner
def lets_everything_lie(view: RoundView) -> Iterator[Act]:
    """Posts, and is never heard of again."""
    yield from ()
