"""Money as people write it: a number and a unit. 1 flt = 10**9 gwei = 10**18 wei."""

from __future__ import annotations

import difflib
import re
from decimal import Decimal, localcontext
from typing import Final

from cli.errors import UserError

UNITS: Final = {"wei": 1, "gwei": 10**9, "flt": 10**18}
AMOUNT_MAX: Final = 2**128 - 1  # wei; far above any supply, far below the contract's integers
_AMOUNT: Final = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]+)")


def parse_amount(text: object, where: str = "amount") -> int:
    """ "1.5 flt" -> wei.

    Args:
        text: a string of number and unit; any other type is refused, because a bare number has no unit.
        where: names the key or option in errors.
    Raises:
        UserError: what is wrong with it, and how to write it.
    """
    if not isinstance(text, str):
        raise UserError(f'{where}: {text!r} needs a unit; write it as a string such as "1.5 flt" or "20 gwei"')
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise UserError(f'{where}: {text!r} is not an amount; write a number and a unit, such as "1.5 flt"')
    number, unit = match.groups()
    if unit.lower() not in UNITS:
        close = difflib.get_close_matches(unit.lower(), UNITS, n=1)
        hint = f"did you mean {close[0]}?" if close else "use wei, gwei or flt"
        raise UserError(f"{where}: unknown unit {unit!r} in {text!r}; {hint}")
    with localcontext() as context:
        context.prec = 200  # amounts are exact
        wei = Decimal(number.replace("_", "")) * UNITS[unit.lower()]
    if wei != wei.to_integral_value():
        raise UserError(f"{where}: {text!r} is not a whole number of wei")
    if wei > AMOUNT_MAX:
        raise UserError(f"{where}: {text!r} is more than there can be")
    return int(wei)


def format_wei(wei: int | str) -> str:
    """The shortest exact way to write an amount: in flt from a millionth upwards, else in gwei or wei."""
    wei = int(wei)
    for unit, smallest in (("flt", 10**12), ("gwei", 10**6)):
        if abs(wei) >= smallest:
            with localcontext() as context:
                context.prec = 200
                number = format((Decimal(wei) / UNITS[unit]).normalize(), "f")
            return f"{number} {unit}"
    return f"{wei} wei"
