"""The commands put together, and what becomes of errors."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from qkv.cli.bench import bench
from qkv.cli.demo import demo
from qkv.cli.encode import encode
from qkv.cli.generate import generate
from qkv.cli.info import info
from qkv.cli.pack import pack
from qkv.cli.plan import plan
from qkv.cli.score import score
from qkv.errors import Error
from qkv.machine import __version__

# The base of typer's usage errors: click's class, or in newer versions of typer its own copy of it.
_ClickException: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run transformer models on this machine's CPU: Hugging Face checkpoints as they are.",
)
for command in (info, demo, encode, generate, score, bench, pack, plan):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _global(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"qkv {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 is success. Bad input, a missing file or wrong usage print one line on stderr and give 2; Ctrl-C gives
    130; a reader of stdout that goes away ends the program quietly with 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a character shows "?", not an error
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = app(args=None if arguments is None else list(arguments), prog_name="qkv", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The interpreter flushes stdout once more as it ends, and must not fail then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _ClickException as error:
        return _fail(error.format_message())
    except (Error, OSError) as error:
        return _fail(str(error))
    return code if isinstance(code, int) else 0


def _warn(message: Warning | str, *_where: Any, **_more: Any) -> None:
    print("warning:", " ".join(str(message).split()), file=sys.stderr)


def _fail(message: str) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return 2
