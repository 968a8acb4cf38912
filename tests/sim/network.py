"""Connections between simulated nodes: a stream each way, which breaks and is made again, and gossip beside them.

Messages of one connection arrive in order (per kind of traffic) or are lost with it. A cut link carries nothing in one
direction, and silently; the connection is found dead some time later, or when the cut ends. Everybody sees a
connection come and go in their own time: a peer is there once its greeting has arrived.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from node import wire
from tests.sim.scenario import Scenario

LATE_S = 0.3  # until the other side of a broken connection notices, at most
CALM_LATENCY_S = 0.08  # at most; below the network's block_delay_s


class Nodes(Protocol):
    """What the network calls; `up` names the nodes that run."""

    now: float

    def up(self) -> list[str]: ...

    def at(self, time: float, call: Callable[[], None]) -> None: ...

    def met(self, name: str, peer: str) -> None: ...

    def missed(self, name: str, peer: str) -> None: ...

    def arrived(self, source: str, target: str, kind: str, payload: bytes) -> None: ...


@dataclass
class _Stream:
    """One direction of a connection."""

    generation: int = 0
    seen: int = 0  # the generation that the receiver knows of; 0: it sees no peer
    greeted: float = 0.0  # when the greeting arrives, which is first
    arrivals: dict[bool, float] = field(default_factory=dict)  # of the latest message, consensus or other


class Streams:
    def __init__(self, nodes: Nodes, scenario: Scenario, rng: random.Random) -> None:
        self._nodes, self._scenario, self._rng = nodes, scenario, rng
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._seen: dict[str, list[str]] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.calm = scenario.calm_from_s <= 0
        self.sent = 0
        self.latency: Callable[[], float] | None = None  # instead of the scenario's

    def _stream(self, source: str, target: str) -> _Stream:
        return self._streams.setdefault((source, target), _Stream())

    def sees(self, name: str) -> list[str]:
        """Whom this node is connected with, as far as it knows."""
        return self._seen.get(name, [])

    def _saw(self, source: str, target: str, generation: int) -> None:
        self._stream(source, target).seen = generation
        seen = {peer for peer in self.sees(target) if peer != source} | ({source} if generation else set())
        self._seen[target] = sorted(seen)

    # ---- connections ------------------------------------------------------------------------------------------------
    def connect(self, a: str, b: str) -> None:
        """Both greet each other; whoever is down, or cannot be reached, is tried again later."""
        if not {a, b} <= set(self._nodes.up()) or self._stream(a, b).generation or self._stream(b, a).generation:
            return
        if (a, b) in self.cuts or (b, a) in self.cuts:
            self._later(0.5, lambda: self.connect(a, b))
            return
        generation = self.sent = self.sent + 1
        for source, target in ((a, b), (b, a)):
            stream = self._stream(source, target)
            stream.generation, stream.arrivals, stream.greeted = generation, {}, self._nodes.now + self._delay()
            self._nodes.at(stream.greeted, lambda s=source, t=target: self._greet(s, t, generation))

    def _greet(self, source: str, target: str, generation: int) -> None:
        stream = self._stream(source, target)
        if stream.generation == generation and target in self._nodes.up():
            self._saw(source, target, generation)
            self._nodes.met(target, source)

    def lose(self, a: str, b: str, again_s: float | None) -> None:
        """The connection breaks; what is under way is lost. `again_s`: when it is tried again."""
        for source, target in ((a, b), (b, a)):
            stream = self._stream(source, target)
            if stream.generation:
                stream.generation = 0
                self._later(self._rng.uniform(0, LATE_S), lambda s=source, t=target: self._notice(s, t))
        if again_s is not None:
            self._later(LATE_S + again_s, lambda: self.connect(a, b))

    def _notice(self, source: str, target: str) -> None:
        stream = self._stream(source, target)
        if stream.seen and stream.seen != stream.generation:
            self._saw(source, target, 0)
            if target in self._nodes.up():
                self._nodes.missed(target, source)

    def died(self, name: str) -> None:
        """Its connections break; it forgets them itself."""
        for other in sorted({peer for pair in self._streams if name in pair for peer in pair} - {name}):
            self._saw(other, name, 0)
            self.lose(name, other, None)

    def booted(self, name: str) -> None:
        for other in self._nodes.up():
            if other != name:
                self._later(LATE_S + self._rng.uniform(0, 0.2), lambda o=other: self.connect(name, o))

    def cut(self, pairs: set[tuple[str, str]], until_s: float) -> None:
        """These directions carry nothing for a while; then the connections are found dead and made again."""
        self.cuts |= pairs
        found_dead = self._rng.uniform(0.2, 3.0)
        self._later(found_dead, lambda: [self.lose(*pair, 0.1) for pair in sorted(pairs & self.cuts)])
        self._nodes.at(until_s, lambda: self.mend(pairs))

    def mend(self, pairs: set[tuple[str, str]]) -> None:
        for pair in sorted(pairs & self.cuts):
            self.cuts.discard(pair)
            self.lose(*pair, 0.0)

    def heal(self) -> None:
        self.calm = True
        self.mend(set(self.cuts))

    # ---- messages ---------------------------------------------------------------------------------------------------
    def send(self, source: str, target: str, kind: str, payload: bytes) -> None:
        self.sent += 1
        if kind.startswith("gossip:"):
            if self.calm or self._rng.random() >= self._scenario.gossip_loss:
                self._schedule(source, target, None, lambda: self._nodes.arrived(source, target, kind, payload))
            return
        generation = self._stream(source, target).generation
        if not generation or (source, target) in self.cuts:
            return

        def arrive() -> None:
            stream = self._stream(source, target)
            if stream.generation == generation == stream.seen:
                self._nodes.arrived(source, target, kind, payload)

        self._schedule(source, target, kind == wire.CONSENSUS, arrive)

    def _schedule(self, source: str, target: str, lane: bool | None, call: Callable[[], None]) -> None:
        arrival = max(self._nodes.now + self._delay(), self._stream(source, target).greeted)
        if lane is not None and (self.calm or self._scenario.keeps_order):
            arrivals = self._stream(source, target).arrivals
            arrival = arrivals[lane] = max(arrival, arrivals.get(lane, 0.0))
        self._nodes.at(arrival, call)
        if not self.calm and self._rng.random() < self._scenario.repeats:
            self._nodes.at(arrival + self._delay(), call)

    def _delay(self) -> float:
        if self.latency is not None:
            return self.latency()
        if self.calm:
            return self._rng.uniform(0.001, CALM_LATENCY_S)
        return self._rng.expovariate(1 / self._scenario.latency_s)

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        def do() -> None:
            call()

        self._nodes.at(self._nodes.now + seconds, do)
