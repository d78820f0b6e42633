"""What the commands share: options, and where their output goes."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show where an error comes from (or LIGHTTOKEN_DEBUG=1).")]


@contextlib.contextmanager
def working() -> Iterator[None]:
    """While a command works, whatever is printed goes to standard error: standard output is for its result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def is_main_process() -> bool:
    """Whether this is the first, or the only, process that was launched."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def going_on_later() -> Iterator[None]:
    """Ctrl-C ends a command that can go on later with a line that says so, and exit status 130 as in a shell."""
    try:
        yield
    except KeyboardInterrupt:
        if is_main_process():
            sys.stderr.write("stopped; the same command goes on from the last finished stage\n")
        raise typer.Exit(128 + signal.SIGINT) from None


def show_json(result: Mapping[str, Any]) -> None:
    """Prints a result for programs."""
    typer.echo(json.dumps(result, indent=2, allow_nan=False))


def show(*parts: RenderableType) -> None:
    """Prints a result for people."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for part in parts:
        console.print(part)
