"""What a conformance check found: one line of JSON from `python -m learner.conformance`. Needs no torch."""

from __future__ import annotations

import msgspec

ANY_BACKEND = "any"  # the check multiplies no matrices


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One check on one device with one backend.

    Attributes:
        check: its name in data_files/golden.json.
        expected, found: hexadecimal sha2-256 digests of the result; `found` is the error's text where there is none.
        elapsed_ms: of the check.
    """

    check: str
    device: str
    backend: str
    ok: bool
    expected: str
    found: str
    elapsed_ms: float

    def __str__(self) -> str:
        """For a log or an error message."""
        what = f"{self.check} on {self.device}"
        if self.backend != ANY_BACKEND:
            what += f" with {self.backend}"
        return f"{what} is as it should be" if self.ok else f"{what}: expected {self.expected}, found {self.found}"
