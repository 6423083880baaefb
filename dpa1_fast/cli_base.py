"""What all commands of ``dpa1-fast`` share: the application, and errors as one line with exit code 2."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .printable import forgiving_output


class Command(TyperGroup):
    """The whole command."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Whatever is printed, help too, is printed in any terminal."""
        forgiving_output()
        return super().main(*args, **options)


app = typer.Typer(
    name="dpa1-fast",
    help="Run DPA-1 models: fast, on any structures, to DeePMD-kit's last digit.",
    cls=Command,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

HeadOption = Annotated[str | None, typer.Option(help="branch of a multi-task checkpoint")]


def fail(message: object) -> typer.Exit:
    """Prints one line on stderr and makes the exit that says that nothing could be done."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    return typer.Exit(2)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns this package's errors into one line on stderr and exit code 2, and its warnings into one line each."""
    from .errors import DPA1Error, DPA1Warning

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, DPA1Warning):
            print(f"note: {message}", file=sys.stderr)

    original: Callable[..., Any] = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    except DPA1Error as error:
        raise fail(error) from None
    finally:
        warnings.showwarning = original


def words(text: str) -> tuple[str, ...]:
    """The parts of a text with commas."""
    return tuple(x.strip() for x in text.split(",") if x.strip())
