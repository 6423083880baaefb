"""The command in a process of its own that need not import everything first.

A server imports the package once and computes nothing; each command is a fork of it, as fresh as a new process but for
the seconds that importing takes. What depends on how a process starts (locales, environment) starts one itself.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn


def run_command(*words: object, cwd: Path | None = None, small_blocks: int = 0) -> subprocess.CompletedProcess[str]:
    """``dpa1-fast WORDS``, run to its end: exit code and what it printed.

    Args:
        small_blocks: structures of a block, so that a short job has many.
    """
    arguments = ["dpa1-fast", *map(str, words)]
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "stdout"), Path(folder, "stderr")
        request = {
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "blocks": small_blocks,
            "told": [*map(str, told)],
        }
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        out, err = (path.read_text(encoding="utf-8") for path in told)
    return subprocess.CompletedProcess(arguments, code, out, err)


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    return server


def _serve() -> None:
    import importlib

    for name in (
        *("ase.db", "ase.io", "h5py", "pyarrow.dataset", "dpa1_fast.cli", "dpa1_fast.engine", "dpa1_fast.loading"),
        *("dpa1_fast.screening.command", "dpa1_fast.screening.report", "dpa1_fast.dynamics.relax"),
    ):
        importlib.import_module(name)
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    for line in iter(requests.readline, ""):
        request: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(**request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _become(arguments: Sequence[str], cwd: str, blocks: int, told: Sequence[str]) -> NoReturn:
    """The command itself, which ends this process as Python would."""
    os.chdir(cwd)
    for fd, path in enumerate((os.devnull, *told)):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, fd)
        os.close(file)
    sys.stdin = os.fdopen(0)
    sys.argv = [*arguments]
    if blocks:
        from dpa1_fast.screening import blocks as of_jobs

        of_jobs.STRUCTURES = blocks
    code: Any = 0
    try:
        from dpa1_fast.cli import app

        app()
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _serve()
