# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Validator set
@license Apache-2.0
@notice Who proposes blocks and votes on them, and how that changes: a validator proposes to admit or to remove one, and
        when more than two thirds of the present validators have approved, the change is made in that very call. It
        ends the epoch: all other proposals lapse.
@dev A genesis contract: the network file places its code, and its validators in `members`; no constructor runs.

     Consensus reads `ValidatorsChanged` and nothing else. Hence nothing else may emit that log, and a block holds at
     most one: after a change nothing can be proposed in the same block, and so nothing approved.

     Within an epoch the validators do not change, so what was checked when a change was proposed still holds when it
     is made, and an approval is a bit at the place of its validator.
"""

# --- constants ---

# validators in a network file (chain/genesis.py)
VALIDATORS_MAX: constant(uint256) = 100

# open proposals of one validator: a faulty one cannot bury those of the others
OPEN_EACH_MAX: constant(uint256) = 8

PAGE_MAX: constant(uint256) = 50


# --- structs ---

struct Change:
    subject: address
    admit: bool
    proposer: address
    approvers: uint256


struct Proposal:
    id: uint256
    subject: address
    admit: bool
    proposer: address
    approvers: uint256  # bit n: the n-th validator has approved


# --- events ---

event Proposed:
    id: indexed(uint256)
    subject: indexed(address)
    proposer: indexed(address)
    admit: bool


event Approved:
    id: indexed(uint256)
    validator: indexed(address)
    approvals: uint256


event ValidatorsChanged:
    epoch: indexed(uint256)
    validators: DynArray[address, VALIDATORS_MAX]


# --- storage ---

# counts the changes
epoch: public(uint256)

# the validators, by index
members: DynArray[address, VALIDATORS_MAX]

# number of the block that ended the last epoch
changed_in: public(uint256)

# proposals are numbered from 1; those up to `lapsed` are of older epochs, the others are open
proposals_count: public(uint256)
lapsed: public(uint256)
changes: HashMap[uint256, Change]

# epoch -> subject -> the open proposal about it; whether it admits or removes follows from the epoch's validators
proposed: HashMap[uint256, HashMap[address, uint256]]

# epoch -> validator -> how many proposals it has made
proposed_by: HashMap[uint256, HashMap[address, uint256]]


# --- external functions ---

@external
def propose(subject: address, admit: bool) -> uint256:
    """
    @notice Propose one change of the validator set; the caller approves it by that.
    @dev Reverts unless the caller is a validator, the change is possible, and nobody has proposed it in this epoch.
    @param subject The account to admit or to remove.
    @param admit Whether to admit it, as the last in order; otherwise it is removed and those behind it move up.
    @return The proposal's number.
    """
    members: DynArray[address, VALIDATORS_MAX] = self.members
    place: uint256 = self._place(members, msg.sender)
    if admit:
        assert subject != empty(address), "validators: the zero address cannot be a validator"
        assert subject not in members, "validators: it is a validator already"
        assert len(members) < VALIDATORS_MAX, "validators: there are 100 already"
    else:
        assert subject in members, "validators: it is no validator"
        assert len(members) > 1, "validators: the last one cannot be removed"
    epoch: uint256 = self.epoch
    same: uint256 = self.proposed[epoch][subject]
    if same != 0:
        raise concat("validators: proposed already, approve proposal ", uint2str(same))
    made: uint256 = self.proposed_by[epoch][msg.sender]
    assert made < OPEN_EACH_MAX, "validators: 8 open proposals of one validator at most"
    # last, so that who asks ahead of sending learns of everything else
    assert epoch == 0 or block.number > self.changed_in, "validators: the epoch has just ended"

    id: uint256 = self.proposals_count + 1
    self.proposals_count = id
    self.proposed[epoch][subject] = id
    self.proposed_by[epoch][msg.sender] = made + 1
    self.changes[id] = Change(subject=subject, admit=admit, proposer=msg.sender, approvers=0)
    log Proposed(id=id, subject=subject, proposer=msg.sender, admit=admit)
    self._approve(id, place, members)
    return id


@external
def approve(id: uint256):
    """
    @notice Approve an open proposal. More than two thirds of the validators make the change and end the epoch.
    @dev Reverts unless the caller is a validator that has not approved it and the proposal is of this epoch.
    @param id The proposal's number.
    """
    members: DynArray[address, VALIDATORS_MAX] = self.members
    place: uint256 = self._place(members, msg.sender)
    assert id != 0 and id <= self.proposals_count, "validators: there is no such proposal"
    assert id > self.lapsed, "validators: the proposal's epoch has ended"
    assert self.changes[id].approvers & (1 << place) == 0, "validators: you have approved it already"
    self._approve(id, place, members)


# --- views ---

@external
@view
def validators() -> DynArray[address, VALIDATORS_MAX]:
    """
    @notice The validators of the present epoch.
    @return Their accounts, by index.
    """
    return self.members


@external
@view
def is_validator(account: address) -> bool:
    """
    @notice Whether an account is a validator of the present epoch.
    """
    return account in self.members


@external
@view
def approvals_needed() -> uint256:
    """
    @notice How many approvals make a change in this epoch.
    @return More than two thirds of the validators.
    """
    return self._needed(len(self.members))


@external
@view
def proposals_page(start: uint256, count: uint256) -> DynArray[Proposal, PAGE_MAX]:
    """
    @notice A page of the open proposals, oldest first.
    @param start How many to skip; at or past the end the page is empty.
    @param count Proposals wanted; at most 50 are given.
    @return Number, change, proposer and approvers of each.
    """
    page: DynArray[Proposal, PAGE_MAX] = []
    open_count: uint256 = self.proposals_count - self.lapsed
    if start >= open_count:
        return page
    for offset: uint256 in range(min(min(count, PAGE_MAX), open_count - start), bound=PAGE_MAX):
        id: uint256 = self.lapsed + 1 + start + offset
        change: Change = self.changes[id]
        page.append(
            Proposal(
                id=id,
                subject=change.subject,
                admit=change.admit,
                proposer=change.proposer,
                approvers=change.approvers,
            )
        )
    return page


# --- internal functions ---

@internal
@pure
def _place(members: DynArray[address, VALIDATORS_MAX], account: address) -> uint256:
    """
    @notice Place of an account among the validators; reverts if it is none.
    """
    place: uint256 = 0
    for member: address in members:
        if member == account:
            return place
        place += 1
    raise "validators: only a validator may do this"


@internal
@pure
def _needed(count: uint256) -> uint256:
    return 2 * count // 3 + 1


@internal
def _approve(id: uint256, place: uint256, members: DynArray[address, VALIDATORS_MAX]):
    """
    @notice Count one approval; the last one that is needed makes the change.
    """
    approvers: uint256 = self.changes[id].approvers | (1 << place)
    self.changes[id].approvers = approvers
    approvals: uint256 = 0
    for n: uint256 in range(len(members), bound=VALIDATORS_MAX):
        approvals += (approvers >> n) & 1
    log Approved(id=id, validator=msg.sender, approvals=approvals)
    if approvals >= self._needed(len(members)):
        self._change(self.changes[id], members)


@internal
def _change(change: Change, members: DynArray[address, VALIDATORS_MAX]):
    """
    @notice Make a change, which ends the epoch.
    """
    validators: DynArray[address, VALIDATORS_MAX] = []
    for member: address in members:
        if member != change.subject:
            validators.append(member)
    if change.admit:
        validators.append(change.subject)
    self.members = validators
    self.epoch += 1
    self.lapsed = self.proposals_count
    self.changed_in = block.number
    log ValidatorsChanged(epoch=self.epoch, validators=validators)
