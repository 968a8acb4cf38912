# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Faucet
@license Apache-2.0
@notice Gives newcomers the coins for their first fees, and no more: a grant is a small fixed amount, for an account
        that has less; once in a period for each account, and a number of times for all.
@dev A genesis contract: the network file places its code, its funds and its terms; no constructor runs, and without
     terms it is switched off. Whoever asks needs a validator to call for it, since it has no coins for a call of its
     own. Hence accounts are cheap to make and grants are not: the rate for all bounds what strangers can fetch.
"""

# --- interfaces ---

interface ValidatorSet:
    def is_validator(account: address) -> bool: view


# --- constants ---

VALIDATORS: constant(address) = 0x0000000000000000000000000000000000000F03


# --- events ---

event Granted:
    account: indexed(address)
    validator: indexed(address)
    amount: uint256


# --- storage ---

# the terms, from the network file: wei of a grant (0: switched off), grants in a period, seconds of a period
amount: public(uint256)
grants_max: public(uint256)
period_s: public(uint256)

# the newest period with a grant, counted from the Unix epoch, and the grants in it
period: uint256
grants: uint256

# account -> when it had its last grant
granted_at: public(HashMap[address, uint256])


# --- external functions ---

@external
def grant(account: address):
    """
    @notice Give an account the coins for its first fees.
    @dev Reverts unless the caller is a validator, the account is a key's and has less than a grant, and none of the
         limits is reached.
    @param account Who asked the caller for it.
    """
    amount: uint256 = self.amount
    assert amount > 0, "faucet: switched off"
    assert staticcall ValidatorSet(VALIDATORS).is_validator(msg.sender), "faucet: only a validator may grant"
    assert not account.is_contract, "faucet: a contract pays no fees"
    assert account.balance < amount, "faucet: the account has coins"
    granted_at: uint256 = self.granted_at[account]
    assert granted_at == 0 or block.timestamp - granted_at >= self.period_s, "faucet: one grant in a period"
    grants: uint256 = self._grants()
    assert grants < self.grants_max, "faucet: no grants are left in this period"
    assert self.balance >= amount, "faucet: it is empty"
    self.period = block.timestamp // self.period_s
    self.grants = grants + 1
    self.granted_at[account] = block.timestamp
    log Granted(account=account, validator=msg.sender, amount=amount)
    send(account, amount)


# --- views ---

@external
@view
def grants_left() -> uint256:
    """
    @notice How many grants may still be made in this period; what the funds suffice for is another matter.
    """
    if self.amount == 0:
        return 0
    return self.grants_max - self._grants()


# --- internal functions ---

@internal
@view
def _grants() -> uint256:
    """
    @notice Grants made in the present period.
    """
    return self.grants if self.period == block.timestamp // self.period_s else 0
