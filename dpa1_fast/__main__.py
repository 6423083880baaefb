"""``python -m dpa1_fast``: the command, where its script is not on the path."""

from .cli import app

app(prog_name="dpa1-fast")
