"""What logs of the genesis contracts state that the chain itself has to know: claims, and changes of the validators."""

from __future__ import annotations

from chain.contracts import REPLICATED, VALIDATORS
from chain.contracts.events import Audited, Event, Revealed, ValidatorsChanged, decode, topic_of
from chain.types import AuditClaim, Claim, Log, RevealClaim

_CLAIMING = (topic_of(Revealed), topic_of(Audited))


def claim_of(source: Event | Log) -> Claim | None:
    """The claim that an event or a log states, or None if it states none."""
    if isinstance(source, Log):
        if source.address != REPLICATED or not source.topics or source.topics[0] not in _CLAIMING:
            return None
        event = decode(source)
    else:
        event = source
    match event:
        case Revealed():
            return RevealClaim(
                contract=REPLICATED,
                job=event.job,
                round=event.round,
                attempt=event.attempt,
                worker=event.worker,
                ctx=event.ctx,
                ciphertext=event.ciphertext,
                size=event.size,
                mask=event.mask,
                update=event.update_digest,
            )
        case Audited():
            return AuditClaim(
                contract=REPLICATED,
                job=event.job,
                round=event.round,
                attempt=event.attempt,
                ctx=event.ctx,
                manifest=event.manifest,
                base=event.base,
                batch_seed=event.batch_seed,
                size=event.size,
                update=event.update_digest,
            )
    return None


def validators_of(log: Log) -> tuple[int, tuple[bytes, ...]] | None:
    """(new epoch, its validators by index) if the log states a change of the validators, else None."""
    if log.address != VALIDATORS or not log.topics or log.topics[0] != topic_of(ValidatorsChanged):
        return None
    event = decode(log)
    assert isinstance(event, ValidatorsChanged)
    return event.epoch, event.validators
