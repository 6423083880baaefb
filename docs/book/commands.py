"""The page of all commands, from the help that they print themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, typer
from dpa1_fast.cli import app
found = {}
def walk(command, name):
    context = typer.Context(command, info_name=name)
    rows = []
    for p in command.params:
        if p.name in ("help", "install_completion", "show_completion"):
            continue
        spelled = ", ".join(p.opts) if p.param_type_name == "option" else (p.metavar or p.name.upper())
        if getattr(p, "secondary_opts", None):
            spelled += " / " + ", ".join(p.secondary_opts)
        shown = p.default if isinstance(p.default, (str, int, float)) and not isinstance(p.default, bool) else ""
        rows.append([spelled, getattr(p, "help", None) or "", str(shown), p.param_type_name, bool(p.required)])
    children = getattr(command, "commands", {})
    if not children:
        found[name] = {"help": command.help or "", "rows": rows}
    for child in children:
        walk(children[child], f"{name} {child}")
walk(typer.main.get_command(app), "dpa1-fast")
print(json.dumps(found))
"""


def commands() -> dict[str, dict[str, object]]:
    """Command → its help, and a row (spelling, help, default, kind, required) for each argument and option."""
    import json

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the commands cannot be asked for their help: {done.stderr}")
    told: dict[str, dict[str, object]] = json.loads(done.stdout)
    return told


def commands_page() -> str:
    """Markdown: a section a command."""
    out = [
        "# Commands\n\nAs `dpa1-fast COMMAND --help` says it. Exit code 2: nothing could be done, one line says why.\n"
    ]
    for name, told in commands().items():
        out += [f"## {name}\n", str(told["help"]), "\n| | | default |\n| --- | --- | --- |"]
        for spelled, said, default, _, required in told["rows"]:  # type: ignore[attr-defined]
            shown = f"`{default}`" if default else "required" if required else ""
            out.append(f"| `{spelled}` | {said.replace('|', chr(92) + '|')} | {shown} |")
        out.append("")
    return "\n".join(out)
