"""What the chain has to know of the contracts that exist from the first block on, as values that a test may replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chain.evm import Account
from chain.genesis import Network
from chain.types import Claim, Log


@dataclass(frozen=True, slots=True)
class System:
    """
    Attributes:
        accounts: code and storage placed at genesis.
        claim_of: what a log states about blobs, if anything.
        claim_digest: what attestations sign, of (claim, chain id, genesis digest).
        validators_of: (number of the next epoch, its validators' addresses), if a log ends an epoch.
    """

    accounts: Callable[[Network], Mapping[bytes, Account]]
    claim_of: Callable[[Log], Claim | None]
    claim_digest: Callable[[Claim, int, bytes], bytes]
    validators_of: Callable[[Log], tuple[int, tuple[bytes, ...]] | None]


def genesis_system() -> System:
    """The contracts of chain/contracts. They are loaded by this call, so that no other room needs them to be read."""
    from chain.claims import claim_digest
    from chain.contracts import FAUCET, FaucetTerms, genesis_contracts
    from chain.contracts.bindings import claim_of, validators_of

    def accounts(network: Network) -> Mapping[bytes, Account]:
        joining = network.joining
        faucet = FaucetTerms(network.grant_wei, joining.grants_max, joining.period_s) if joining.faucet else None
        placed = genesis_contracts(network.validator_addresses, joining.sponsors, faucet)
        funds = {FAUCET: joining.faucet_wei if joining.faucet else 0}
        return {
            address: Account(funds.get(address, 0), nonce=1, code=code, storage=storage)
            for address, (code, storage) in placed.items()
        }

    return System(accounts, claim_of, claim_digest, validators_of)
