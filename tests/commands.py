"""The command in a process of its own that need not import everything first.

A server imports the package once and computes nothing; each command is a fork of it, as fresh as a new process but for
the seconds that importing takes. A server of its own is started in another environment, such as another locale.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

Environment = tuple[tuple[str, str], ...]


class Started:
    """A command that runs. One at a time: the server waits for it.

    Attributes:
        pid: of its process.
    """

    def __init__(self, server: subprocess.Popen[bytes], request: dict[str, Any], errors: str) -> None:
        self._folder, self._errors = tempfile.TemporaryDirectory(), errors
        told = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for path in told:
            path.touch()  # it may be killed before it opens them
        self._told = [*map(str, told)]
        assert server.stdin is not None
        assert server.stdout is not None
        self._arguments, self._answers = request["arguments"], server.stdout
        server.stdin.write(json.dumps(request | {"told": self._told}).encode() + b"\n")
        server.stdin.flush()
        self.pid = int(self._answers.readline())

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not select.select([self._answers], [], [], 0)[0]

    def send_signal(self, number: signal.Signals) -> None:
        """To a command that runs."""
        if self.running():
            os.kill(self.pid, number)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Its end: exit code, minus the signal that ended it, and what it printed."""
        code = int(self._answers.readline())
        out, err = (Path(path).read_text(encoding="utf-8", errors=self._errors) for path in self._told)
        self._folder.cleanup()
        return subprocess.CompletedProcess(self._arguments, code, out, err)


def start_command(
    *words: object,
    cwd: Path | None = None,
    small_blocks: int = 0,
    stdin: Path | None = None,
    limits: Mapping[int, int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Started:
    """``dpa1-fast WORDS``.

    Args:
        small_blocks: structures of a block, so that a short job has many.
        stdin: a file that it reads as standard input. limits: by the number of ``resource.setrlimit``.
        environment: what differs from this process's; what is printed then need not be UTF-8.
    """
    request = {
        "arguments": ["dpa1-fast", *map(str, words)], "cwd": str(cwd or Path.cwd()), "blocks": small_blocks,
        "stdin": str(stdin or os.devnull), "limits": list((limits or {}).items()),
    }  # fmt: skip
    server = _server_in(tuple(environment.items())) if environment else _server()
    return Started(server, request, "surrogateescape" if environment else "strict")


def run_command(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """``dpa1-fast WORDS`` to its end; options as of ``start_command``."""
    return start_command(*words, **options).wait()


_elsewhere: dict[Environment, subprocess.Popen[bytes]] = {}


def _server_in(environment: Environment) -> subprocess.Popen[bytes]:
    """One at a time: each holds half a gigabyte."""
    if environment not in _elsewhere:
        while _elsewhere:
            _, other = _elsewhere.popitem()
            other.kill()
            other.communicate()
        _elsewhere[environment] = _start(environment)
    return _elsewhere[environment]


@cache
def _server() -> subprocess.Popen[bytes]:
    return _start(())


def _start(environment: Environment) -> subprocess.Popen[bytes]:
    server = subprocess.Popen(
        [sys.executable, __file__], env=os.environ | dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        bufsize=0,
    )  # fmt: skip
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
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _become(
    arguments: Sequence[str], cwd: str, blocks: int, stdin: str, limits: Sequence[tuple[int, int]], told: Sequence[str]
) -> NoReturn:
    """The command itself, which ends this process as Python would."""
    import resource

    os.chdir(cwd)
    for fd, path in enumerate((stdin, *told)):
        file = os.open(path, os.O_RDONLY if fd == 0 else os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, fd)
        os.close(file)
    sys.stdin = os.fdopen(0)
    sys.argv = [*arguments]
    for number, most in limits:
        resource.setrlimit(number, (most, most))
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
