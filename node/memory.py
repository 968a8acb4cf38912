"""How much memory a process holds."""

from __future__ import annotations

import os
from typing import Final

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int | None) -> int:
    """Resident set of a process; 0 if it is gone, or None."""
    if pid is None:
        return 0
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
