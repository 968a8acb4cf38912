"""The keys of a job file's [terms] that are about audits."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from cli.amounts import parse_amount
from cli.errors import UserError

MILLION: Final = 10**6
KEYS: Final[Mapping[str, tuple[type, Any]]] = {
    "audit": (float, 0.0),  # probability
    "audit_window_s": (int, 600),
    "audit_fee": (str, None),
    "appeal_window_s": (int, 0),
    "appeal_bond": (str, None),
}
AMOUNTS: Final = ("audit_fee", "appeal_bond")


def audit_terms(terms: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of schema.Terms.

    Args:
        terms: the table, checked for types, with a value for every key.
        source: the file, named in errors.
    Raises:
        UserError: a value is out of its range, or one that is needed is missing.
    """

    def where(key: str) -> str:
        return f"`{key}` in [terms] of {source}"

    def need(holds: bool, key: str, text: str) -> None:
        if not holds:
            raise UserError(f"{where(key)}: {text}")

    likely = terms["audit"] == 0 or 1 / MILLION <= terms["audit"] <= 1
    need(likely, "audit", f"expected a probability, 0 or 0.000001 to 1, got {terms['audit']}")
    for key in ("audit_window_s", "appeal_window_s"):
        least = 1 if key == "audit_window_s" else 0
        need(least <= terms[key] <= 365 * 86_400, key, f"expected {least} to {365 * 86_400}, got {terms[key]}")
    audits = terms["audit"] > 0 or terms["appeal_window_s"] > 0
    need(not audits or terms["audit_fee"] is not None, "audit_fee", "missing; who audits for nothing?")
    need(audits or terms["audit_fee"] is None, "audit_fee", "only with `audit` or `appeal_window_s`")
    fee = parse_amount(terms["audit_fee"], where("audit_fee")) if audits else 0
    bond = 2 * fee if terms["appeal_bond"] is None else parse_amount(terms["appeal_bond"], where("appeal_bond"))
    if terms["appeal_window_s"]:
        need(not terms["auto_finalise"], "appeal_window_s", "with `auto_finalise` there is no time for appeals")
        need(bond >= fee, "appeal_bond", "it has to cover `audit_fee`")
    else:
        need(terms["appeal_bond"] is None, "appeal_bond", "only with `appeal_window_s`")
        bond = 0
    return {
        "audit_ppm": round(exact_share(terms) * MILLION),
        "audit_window_s": terms["audit_window_s"],
        "audit_fee_wei": str(fee),
        "appeal_window_s": terms["appeal_window_s"],
        "appeal_bond_wei": str(bond),
    }


def exact_share(terms: Mapping[str, Any]) -> Fraction:
    """The probability of an audit as the file has it, to a part per million."""
    return Fraction(round(Fraction(str(terms["audit"])) * MILLION), MILLION)
