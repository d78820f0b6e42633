"""The command line: `lighttoken`."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from ..distributed import ProcessError
from ..version import __version__
from . import checkpoints, compress_all, demo, evaluate, heal, push, recut

app = typer.Typer(
    name="lighttoken",
    help="Makes the token-embedding tables of Hugging Face models many times smaller.",
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)
checkpoints.add_to(app)
compress_all.add_to(app)
heal.add_to(app)
demo.add_to(app)
evaluate.add_to(app)
recut.add_to(app)
push.add_to(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Makes the token-embedding tables of Hugging Face models many times smaller."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0, 2 for wrong use, 1 for a failure, which is told in one line.

    Args:
        arguments: of the command line; those of the process when None.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing half-written stays
    try:
        app(args=given, prog_name="lighttoken")
    except Exception as error:
        if "--debug" in given or os.environ.get("LIGHTTOKEN_DEBUG", "0") not in ("", "0"):
            raise
        if not _told_by_another(error):
            sys.stderr.write(f"error: {_one_line(error)}\n")
        sys.exit(1)
    sys.exit(0)


def _told_by_another(error: Exception) -> bool:
    """Whether this is one of several processes, and another one tells of the error."""
    return os.environ.get("RANK", "0") != "0" and isinstance(error, (ValueError, TypeError, ProcessError))


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    message = " ".join(str(error).split())
    expected = isinstance(error, (ValueError, RuntimeError, OSError, TypeError, NotImplementedError, ImportError))
    return message if expected and message else f"{type(error).__name__}: {message}".removesuffix(": ")
