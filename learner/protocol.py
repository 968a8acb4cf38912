"""What the node and the learner's process say to each other, and how it is framed. Needs no torch.

A frame is its length (4 bytes, big-endian) and that many bytes of msgpack. The process speaks first (`Ready`, id 0);
then each request is answered by exactly one final reply with its id (`Done`, `Scored`, `Ready`, `Cancelled`,
`Failed`), with `Progress` before it. One job runs at a time. `Cancel` has no reply of its own: the job it names ends
as `Cancelled`, or as whatever it had become by then. Big values travel as files in the process's folder, by name.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec

from learner.manifest import MANIFEST_BYTES_MAX, Digest

FRAME_BYTES_MAX: Final = 64 * 1024
PROGRESS_INTERVAL_S: Final = 0.1
CANNOT_START: Final = 78  # exit status (EX_CONFIG of sysexits.h): a library is missing
SPEAKS_FIRST: Final = 0  # the id of the frame that nobody asked for

_LENGTH: Final = struct.Struct(">I")

FileName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}\Z")]
RequestId = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
ManifestBytes = Annotated[bytes, msgspec.Meta(max_length=MANIFEST_BYTES_MAX)]


class FrameTooLong(Exception):
    """The other side announced more bytes than FRAME_BYTES_MAX: it speaks something else."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", kw_only=True):
    """What every request has."""

    id: RequestId


class Init(Request, frozen=True, tag="init"):
    """Write the manifest's first base state to `out`; answered by Done. `weights` is the blob that it may name."""

    manifest: ManifestBytes
    out: FileName
    weights: FileName | None = None


class Train(Request, frozen=True, tag="train"):
    """Train one round from `base` and write the next state to `out`; answered by Progress and Done.

    `row` holds the round's indices, if the manifest lists batches.
    """

    manifest: ManifestBytes
    base: FileName
    dataset: FileName
    batch_seed: Digest
    out: FileName
    row: FileName | None = None


class Evaluate(Request, frozen=True, tag="evaluate"):
    """Score `state` on the dataset's test samples; answered by Scored."""

    manifest: ManifestBytes
    state: FileName
    dataset: FileName


class Predict(Request, frozen=True, tag="predict"):
    """Classify the test samples of a dataset; answered by Done, `out` holds one little-endian u16 per sample."""

    manifest: ManifestBytes
    state: FileName
    dataset: FileName
    out: FileName


class Describe(Request, frozen=True, tag="describe"):
    """Answered by Ready."""


class Cancel(Request, frozen=True, tag="cancel"):
    """End the job with this id soon; silently ignored when it has ended."""


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", kw_only=True):
    """What every reply has."""

    id: RequestId


class Walls(msgspec.Struct, frozen=True, kw_only=True):
    """Which walls stand around the process; `missing` says why the others do not."""

    no_new_privileges: bool = False
    no_capabilities: bool = False
    landlock_abi: int = 0
    seccomp: bool = False
    limits: bool = False
    missing: tuple[str, ...] = ()


class Ready(Reply, frozen=True, tag="ready"):
    """The process, and whether it does jobs: its machine computes as the arithmetic asks, and its walls stand."""

    conforms: bool
    reason: str  # why it refuses every job; empty when it conforms
    torch: str
    device: str
    backend: str
    threads: int
    walls: Walls
    import_ms: float
    check_ms: float
    step_ms: float = 0.0  # its speed, learner.needs.Speed; 0 where it was not measured
    multiplications_per_s: float = 0.0


class Progress(Reply, frozen=True, tag="progress"):
    """At most one every PROGRESS_INTERVAL_S; `loss` is that of the last step's batch before the step."""

    step: int
    steps: int
    loss: float


class Done(Reply, frozen=True, tag="done"):
    """The job's file is written."""

    elapsed_ms: float


class Scored(Reply, frozen=True, tag="scored"):
    """`correct` of `total` test samples."""

    correct: int
    total: int


class Cancelled(Reply, frozen=True, tag="cancelled"):
    """The job ended because it was asked to; it left no file."""


class Failed(Reply, frozen=True, tag="failed"):
    """`kind` is a JobError's kind, or "file", "memory", "busy", "nonconforming"."""

    kind: str
    message: str


AnyRequest = Init | Train | Evaluate | Predict | Describe | Cancel
Job = Init | Train | Evaluate | Predict
AnyReply = Ready | Progress | Done | Scored | Cancelled | Failed

_requests: Final[msgspec.msgpack.Decoder[AnyRequest]] = msgspec.msgpack.Decoder(AnyRequest)
_replies: Final[msgspec.msgpack.Decoder[AnyReply]] = msgspec.msgpack.Decoder(AnyReply)


def encode(message: AnyRequest | AnyReply) -> bytes:
    """One whole frame."""
    body = msgspec.msgpack.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise FrameTooLong(f"{len(body)} bytes, at most {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(body)) + body


def decode_request(body: bytes) -> AnyRequest:
    """Raises msgspec.DecodeError (also for a wrong field: ValidationError is one) on anything but a request."""
    return _requests.decode(body)


def decode_reply(body: bytes) -> AnyReply:
    """Raises msgspec.DecodeError (also for a wrong field: ValidationError is one) on anything but a reply."""
    return _replies.decode(body)


class FrameBuffer:
    """Cuts a byte stream into frames; holds at most one frame and one read."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The body of the next whole frame, or None until more is fed.

        Raises:
            FrameTooLong: the stream is of no further use.
        """
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > FRAME_BYTES_MAX:
            raise FrameTooLong(f"{length} bytes, at most {FRAME_BYTES_MAX}")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return body
