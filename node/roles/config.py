"""The [audit] section of a node's configuration; parsed once, frozen, refused loudly."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class AuditConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Audits: computing others' rounds again as a validator, and asking for that as a worker."""

    recompute: Annotated[
        bool,
        Meta(description="A validator runs a learner for audits. One that works or owns jobs has a learner anyway."),
    ] = False
    fee_gwei_min: Annotated[
        int, Meta(ge=0, description="Audits that pay the validators less are left to others; gwei.")
    ] = 0
    appeal_gwei_max: Annotated[
        int,
        Meta(ge=0, description="Largest bond that a worker puts up against a majority that differs from it; gwei."),
    ] = 10**9
