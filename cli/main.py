"""The `flnode` command. Every command is in the file of its noun; this one only puts them together."""

from __future__ import annotations

import os
import sys
import traceback

import click
from click.shell_completion import get_completion_class

from cli.account import account
from cli.conformance import conformance
from cli.data import data
from cli.demo import demo
from cli.economics import economics
from cli.errors import NODE_ERROR, USER_ERROR, CommandError
from cli.history import history
from cli.init import init
from cli.job import job
from cli.manifest import manifest
from cli.output import colours
from cli.peers import peers
from cli.start import start, stop
from cli.status import status
from cli.testnet import testnet
from cli.validator import validator
from node.config import ConfigError

INTERRUPTED = 130  # as shells report SIGINT


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="flnode", prog_name="flnode")
def cli() -> None:
    """Train a model together with machines that you do not trust; only work that was really done is paid.

    \b
    flnode demo                                    a whole network on this machine, by itself
    flnode testnet up                              an own network in the background, to stay
    flnode init DIR --network FILE --role worker   make a node
    flnode start --config DIR                      run it
    flnode status --config DIR                     see how it is
    """


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    eval "$(flnode completion bash)"               for this session; in ~/.bashrc for all
    eval "$(flnode completion zsh)"
    flnode completion fish > ~/.config/fish/completions/flnode.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click brings all three
    click.echo(kind(cli, {}, "flnode", "_FLNODE_COMPLETE").source())


account.add_command(history)

for command in (
    init, start, stop, status, peers, data, manifest, job, account, validator, testnet, demo, economics, conformance,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """The entry point: errors become one line on stderr and an exit code, 2 for the user's and 1 for the node's."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code."""
    try:
        result = cli.main(arguments, prog_name="flnode", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USER_ERROR
    except click.ClickException as error:
        return _fail(_one_line(error), error.exit_code)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except ConfigError as error:
        return _fail(" ".join(str(error).split()), USER_ERROR)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _give_up_stdout()  # whoever read us has gone, as `| head` does
        return 0
    except OSError as error:
        if os.environ.get("FLNODE_DEBUG"):
            traceback.print_exc()
        _give_up_stdout()
        return _fail(f"{error.filename or 'cannot write the output'}: {error.strerror or error}", NODE_ERROR)
    except Exception as error:
        debug = bool(os.environ.get("FLNODE_DEBUG"))
        if debug:
            traceback.print_exc()
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]  # the first leaf says it
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"a bug in flnode: {what}" + ("" if debug else "; set FLNODE_DEBUG=1 to see where"), NODE_ERROR)


def _give_up_stdout() -> None:
    """What could not be written is dropped: Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message = f"{message.rstrip('.')} (see `{error.ctx.command_path} --help`)"
    return message


def _fail(message: str, code: int) -> int:
    name = "flnode: "
    click.echo((click.style(name, fg="red", bold=True) if colours(sys.stderr) else name) + message, err=True)
    return code


if __name__ == "__main__":
    main()
