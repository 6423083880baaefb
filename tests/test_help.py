"""What the command line's help says reaches the reader."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
import typer

from dpa1_fast.cli import app
from dpa1_fast.train.finetune import FEWEST_STEPS, MOST_STEPS, STEPS_EACH, rate_for


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and those below it."""
    yield name, command
    for below, one in getattr(command, "commands", {}).items():
        yield from commands(one, f"{name} {below}")


COMMANDS = dict(commands(typer.main.get_command(app), "dpa1-fast"))


def test_the_length_of_a_finetuning_is_that_of_the_code() -> None:
    told = {p.name: getattr(p, "help", "") for p in COMMANDS["dpa1-fast finetune"].params}
    assert f"{STEPS_EACH} for each structure, from {FEWEST_STEPS} to {MOST_STEPS}" in told["steps"]
    assert "1e-4 times the root" in told["lr"]
    assert [rate_for(n) for n in (4, 10**6)] == [2e-4, 1e-3]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_of_the_help_is_taken_for_markup(name: str) -> None:
    # "[model]" without a backslash is a style to rich, and is not shown.
    told = [COMMANDS[name].help or ""] + [getattr(p, "help", None) or "" for p in COMMANDS[name].params]
    assert not [text for text in told if re.search(r"(?<!\\)\[[a-z/]", text)]
