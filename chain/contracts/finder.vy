# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Job finder
@license Apache-2.0
@notice Lists the open jobs of every kind of job contract, so that a worker who knows one address finds all paid work.
        Listing and delisting cost the same however many jobs are open.
@dev A genesis contract: the network file places its code and storage, no constructor runs. `kinds` is filled there and
     never changes; a rule change that brings a new kind of job places it at a height.
"""

# --- constants ---

PAGE_MAX: constant(uint256) = 50


# --- structs ---

struct Listing:
    kind: uint256
    contract: address
    job: uint256


# --- events ---

event JobListed:
    kind: indexed(uint256)
    contract: indexed(address)
    job: indexed(uint256)


event JobDelisted:
    kind: indexed(uint256)
    contract: indexed(address)
    job: indexed(uint256)


# --- storage ---

# job contract -> its kind, 1 or more; 0 means that the contract may not list
kinds: public(HashMap[address, uint256])

# the open jobs, at 0 .. open_count - 1, in no particular order
open_count: public(uint256)
listings: HashMap[uint256, Listing]

# job contract -> job -> 1 + its place in `listings`; 0 means not listed
places: HashMap[address, HashMap[uint256, uint256]]


# --- external functions, for job contracts ---

@external
def list_job(job: uint256):
    """
    @notice Show a job of the calling contract as open.
    @dev Reverts unless the caller is a job contract of genesis, or if the job is listed already.
    @param job The job's number in the calling contract.
    """
    kind: uint256 = self._kind_of_caller()
    assert self.places[msg.sender][job] == 0, "finder: already listed"
    self.listings[self.open_count] = Listing(kind=kind, contract=msg.sender, job=job)
    self.open_count += 1
    self.places[msg.sender][job] = self.open_count
    log JobListed(kind=kind, contract=msg.sender, job=job)


@external
def delist_job(job: uint256):
    """
    @notice Take a job of the calling contract off the list; the last listing moves into its place.
    @dev Reverts unless the caller is a job contract of genesis, or if the job is not listed.
    @param job The job's number in the calling contract.
    """
    kind: uint256 = self._kind_of_caller()
    place: uint256 = self.places[msg.sender][job]
    assert place > 0, "finder: not listed"
    self.open_count -= 1
    moved: Listing = self.listings[self.open_count]
    self.listings[place - 1] = moved
    self.listings[self.open_count] = empty(Listing)
    self.places[moved.contract][moved.job] = place
    self.places[msg.sender][job] = 0
    log JobDelisted(kind=kind, contract=msg.sender, job=job)


# --- views ---

@external
@view
def open_at(index: uint256) -> Listing:
    """
    @notice The open job at one place of the list.
    @dev Reverts past the end. Places change when jobs are delisted.
    @param index 0 .. open_count - 1.
    @return Kind, contract and number of the job.
    """
    assert index < self.open_count, "finder: past the end"
    return self.listings[index]


@external
@view
def open_page(start: uint256, count: uint256) -> DynArray[Listing, PAGE_MAX]:
    """
    @notice A page of the list of open jobs.
    @param start Place of the first job wanted; at or past the end the page is empty.
    @param count Jobs wanted; at most 50 are given.
    @return Kind, contract and number of each.
    """
    page: DynArray[Listing, PAGE_MAX] = []
    if start >= self.open_count:
        return page
    for offset: uint256 in range(min(min(count, PAGE_MAX), self.open_count - start), bound=PAGE_MAX):
        page.append(self.listings[start + offset])
    return page


# --- internal functions ---

@internal
@view
def _kind_of_caller() -> uint256:
    kind: uint256 = self.kinds[msg.sender]
    assert kind > 0, "finder: not a job contract"
    return kind
