"""How a command fails: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

from typing import Final

USER_ERROR: Final = 2
NODE_ERROR: Final = 1


class CommandError(Exception):
    """The message is one line and says what to do."""

    exit_code = NODE_ERROR


class UserError(CommandError):
    """The command line, a file or an amount is wrong."""

    exit_code = USER_ERROR


class NodeError(CommandError):
    """The node cannot be reached, or refused."""
