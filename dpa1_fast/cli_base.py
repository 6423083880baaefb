"""What all commands of ``dpa1-fast`` share: the application, and errors as one line with exit code 2."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

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

DEFAULT_MODEL = "dpa1-68"
NO_MODEL = (
    f"no --model was given, so {DEFAULT_MODEL} serves: it copies another potential (CHGNet, not DFT) over 68 elements, "
    "for a first look and not for numbers to publish (docs/dpa1-68.md); --fields uncertainty says what not to trust"
)

Dispersion = Annotated[
    str | None,
    typer.Option(metavar="d3bj:pbe", help="DFT-D3 added to the model: damping and functional (extra 'dispersion')"),
]
KeepSymmetry = Annotated[
    bool, typer.Option("--keep-symmetry", help="relax crystals in their space groups (extra 'symmetry')")
]
HeadOption = Annotated[str | None, typer.Option(help="branch of a multi-task checkpoint")]


class ManyModels(TyperCommand):
    """Lets ``--models`` take all words up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Spells ``--models A B`` as ``--models A --models B``."""
        spelled: list[str] = []
        taking = False
        for word in args:
            if word.startswith("-") and word != "-":
                taking = word == "--models"
                spelled += [] if taking else [word]
            else:
                spelled += ["--models", word] if taking else [word]
        return super().parse_args(ctx, spelled)


def chosen_models(model: str | None, models: list[str] | None) -> list[str]:
    """What ``--model`` and ``--models`` name; where they name nothing, the default, which says that it serves."""
    chosen = [*([model] if model else []), *(models or [])]
    if not chosen:
        print(NO_MODEL, file=sys.stderr)
    return chosen or [DEFAULT_MODEL]


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
