"""Grants of first coins over the wire: a newcomer asks validators, a validator calls the faucet for it.

The request names an account and is signed by its key over the network and the asking peer, so nobody asks for others,
elsewhere, or again as somebody else. What is decided, and how often, is in node.roles.newcomer and node.roles.granter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
import trio

from chain.chain import Chain
from chain.contracts import FAUCET
from chain.contracts import bindings as b
from node import wire
from node.account import Account, QueueFull, TransactionFailed
from node.link import Link
from node.p2p.host import Network
from node.p2p.requests import Replier
from node.p2p.types import PeerFault, RequestFailed
from node.roles import granter, newcomer
from node.roles.common import WakeAt

log = structlog.get_logger()

PROTOCOL: Final = "/flnode/grant/1"
ANSWER_BYTES_MAX: Final = 1024


class Faucet:
    """Both ends of the request.

    Args:
        key: this node's account secret.
        fee: wei for a unit of gas that an account must have before a call.
        clock: wall clock, unix seconds.
    """

    def __init__(
        self, chain: Chain, link: Link, network: Network, account: Account, key: bytes, fee: int,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._chain, self._link, self._network, self._account = chain, link, network, account
        self._key, self._fee, self._clock = key, fee, clock
        self._granter = granter.GranterState()
        self._pending: set[bytes] = set()
        self._grants_in, self._grants_out = trio.open_memory_channel[bytes](granter.GRANTS_PENDING_MAX)
        self.state = newcomer.NewcomerState(enough=0)

    # ---- the validator ----------------------------------------------------------------------------------------------
    async def serve(self) -> None:
        """Answer requests, and carry out what was agreed to."""
        self._network.serve(PROTOCOL, self._answer)
        async with trio.open_nursery() as nursery:
            async for account in self._grants_out:
                nursery.start_soon(self._grant, account)

    async def _answer(self, peer: str, request: bytes, replier: Replier) -> None:
        now = self._clock()
        self._granter, reason = granter.admit(self._granter, peer, now)
        if reason is None:
            try:
                asked = wire.decode(request, wire.WantGrant)
            except wire.InvalidMessage as error:
                raise PeerFault(str(error)) from None
            network = self._chain.network.chain_id, self._chain.genesis_digest
            if not wire.grant_is_wanted_by(asked.account, asked.proof, *network, peer):
                raise PeerFault(f"wrong proof of having the key of 0x{asked.account.hex()}")
            reason = granter.judge(self._facts(asked.account, now), now)
            if reason is None and asked.account not in self._pending:
                self._pending.add(asked.account)
                self._grants_in.send_nowait(asked.account)
        log.info("grant.asked", peer=peer, refused=reason)
        await replier.send(wire.encode(wire.GrantAnswer(reason)))

    def _facts(self, account: bytes, now: float) -> granter.Facts:
        chain, own = self._chain, self._account.address
        joining = chain.network.joining
        left, granted = b.grants_left_view(), b.granted_at_view(account)
        return granter.Facts(
            validates=own in chain.epochs.present.validators,
            grant=chain.network.grant_wei if joining.faucet else 0,
            balance=chain.balance(account),
            granted_at=granted.decode(chain.call(granted.to, granted.data)),
            period_s=joining.period_s,
            left=left.decode(chain.call(left.to, left.data, now=int(now))),
            funds=chain.balance(FAUCET),
            own_balance=chain.balance(own),
            own_cost=b.GRANT_GAS * self._fee,
            pending=len(self._pending),
        )

    async def _grant(self, account: bytes) -> None:
        try:
            await self._account.submit(f"grant {account.hex()}", b.grant(account))
            log.info("grant.made", account="0x" + account.hex())
        except (TransactionFailed, QueueFull) as error:
            log.warning("grant.failed", account="0x" + account.hex(), reason=str(error))
        finally:
            self._pending.discard(account)

    # ---- the newcomer -----------------------------------------------------------------------------------------------
    def look(self) -> newcomer.LookedAround:
        """What the newcomer's machine is to know now."""
        validators = tuple(info.peer for info in self._network.peers() if self._link.index_of(info.peer) is not None)
        return newcomer.LookedAround(self._clock(), self._chain.balance(self._account.address), validators)

    def step(
        self, state: newcomer.NewcomerState, event: newcomer.Event
    ) -> tuple[newcomer.NewcomerState, tuple[object, ...]]:
        """The machine's, kept to be shown by status."""
        self.state, effects = newcomer.step(state, event)
        return self.state, effects

    async def perform(self, effect: object) -> newcomer.Event | None:
        match effect:
            case newcomer.AskGrant(peer=peer):
                reason = await self._ask(peer)
                log.info("grant.answered", peer=peer, refused=reason)
                return newcomer.GrantAnswered(peer, reason)
            case WakeAt():
                await trio.sleep(max(0.0, effect.time - self._clock()))
                return self.look()
        raise AssertionError(f"nobody performs {effect!r}")

    async def _ask(self, peer: str) -> str | None:
        network = self._chain.network.chain_id, self._chain.genesis_digest
        proof = wire.sign_want_grant(self._key, *network, self._network.peer_id)
        request = wire.encode(wire.WantGrant(self._account.address, proof))
        try:
            answer = await self._network.request(peer, PROTOCOL, request, ANSWER_BYTES_MAX)
            return wire.decode(answer, wire.GrantAnswer).reason
        except (RequestFailed, wire.InvalidMessage) as error:
            return str(error)
