"""What the API needs from the node it serves; `node.app` implements it.

`fl_*` methods are coroutines that return schema structs. They raise `BackendError` for whatever the caller did wrong
or must know; any other exception is our bug and reaches the caller as "internal error".
"""

from __future__ import annotations

from typing import Protocol

from chain.reads import ChainReads
from learner.card import Card
from node.api import schema


class BackendError(Exception):
    """A request that cannot be served; the message is for the person who asked, on one line."""


class NotFound(BackendError):
    """The job (or other thing) asked for is not known at the finalised head."""


class Backend(Protocol):
    """The node as its API sees it. All reads are of the finalised head."""

    @property
    def chain(self) -> ChainReads:
        """For eth_* reads; the API only reads, and never across a checkpoint of trio."""
        ...

    def pending_nonce(self, address: bytes) -> int:
        """The nonce that the account's next transaction needs: the finalised one, plus those that wait here."""
        ...

    async def submit_transaction(self, raw: bytes) -> bytes:
        """Admit a client's signed transaction, keep it over restarts until it is final, and forward it; its hash.

        Raises:
            chain.types.InvalidTransaction: the reason is shown to the sender.
        """
        ...

    async def status(self) -> schema.Status: ...

    async def peers(self) -> list[schema.Peer]:
        """Connected ones, validators first."""
        ...

    async def known_peers(self) -> list[schema.KnownPeer]:
        """The peer book, peers that were met first."""
        ...

    async def jobs(self) -> list[schema.JobSummary]:
        """Newest first."""
        ...

    async def job(self, job: int) -> schema.JobDetail:
        """Raises NotFound."""
        ...

    async def job_events(self, job: int, after: int, wait_s: float) -> schema.JobEvents:
        """Events with sequence > after; if there are none, waits up to wait_s for one. Raises NotFound."""
        ...

    async def account(self) -> schema.Account: ...

    async def datasets(self) -> list[schema.DatasetInfo]:
        """Those that have a name here, the built-in ones first."""
        ...

    async def dataset(self, dataset: str) -> schema.DatasetInfo:
        """By name, 0x digest or CID. Raises NotFound."""
        ...

    async def blob_part(self, digest: bytes, index: int) -> schema.BlobPart:
        """256 KiB of a public blob. Raises NotFound."""
        ...

    async def validators(self) -> schema.Validators: ...

    # The methods below sign with the node's key or change it: the API admits them only over the Unix socket or with
    # the token. Those with wait_s return when the transaction is final or wait_s has passed, whichever comes first.

    async def submit_job(self, spec: schema.JobSpec, wait_s: float) -> schema.Submitted:
        """Build the manifest, put its blobs, post the job with its whole escrow."""
        ...

    async def cancel_job(self, job: int, wait_s: float) -> schema.Submitted: ...

    async def appeal_job(self, job: int, wait_s: float) -> schema.Submitted:
        """Have the majority of the open round audited, against the bond that the job's terms ask for."""
        ...

    async def top_up_job(self, job: int, rounds: int, wait_s: float) -> schema.Submitted: ...

    async def withdraw(self, wait_s: float) -> schema.Submitted:
        """Fetch what the contract owes this account, of all jobs."""
        ...

    async def send(self, to: bytes, value: int, wait_s: float) -> schema.Submitted:
        """Pay `value` wei to a 20-byte address."""
        ...

    async def propose_validator(self, subject: bytes, admit: bool, wait_s: float) -> schema.Submitted:
        """Propose to admit the account `subject` (20 bytes) as a validator, or to remove it."""
        ...

    async def approve_validator(self, proposal: int, wait_s: float) -> schema.Submitted: ...

    async def add_dataset(self, path: str, name: str, card: Card, replace: bool) -> schema.DatasetInfo:
        """Keep the canonical dataset in the file `path` of this machine, and serve it to peers."""
        ...

    async def model(self, job: int, round: int | None, wait_s: float) -> schema.ModelInfo:
        """Have the model of a settled round here, the last one's for None. Raises NotFound."""
        ...

    async def predict(self, job: int, round: int | None, path: str, wait_s: float) -> schema.Prediction:
        """Classify the test samples of the dataset in the file `path` of this machine."""
        ...

    async def stop(self) -> schema.Stopping:
        """Begin to stop and return at once. The API, when cancelled, still lets the answer out."""
        ...
