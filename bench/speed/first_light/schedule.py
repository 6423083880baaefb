"""Steps one after another, each in a process of its own that ends at its limit: a crash or a hang costs one step.

What is begun and what has ended is said in the log, so that a run which was killed goes on with what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .lines import Log

FEWEST_SECONDS = 6.0
"""With less left no step is begun."""
TO_END = 2.0
"""Seconds of the whole that are kept for the end."""
KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Step:
    """One thing to be learnt.

    Attributes:
        name: in the log. what: for people. limit: seconds. call: does it, and says its facts itself.
    """

    name: str
    what: str
    limit: float
    call: Callable[[], Any]


def todo(steps: Sequence[Step], lines: Sequence[dict[str, Any]], kit: str) -> list[Step]:
    """What is missing, in order; then what failed before, or was twice begun and never ended.

    Args:
        lines: of earlier runs. kit: only what the same code said counts.
    """
    begun, ended, done = Counter[str](), Counter[str](), set[str]()
    failed = Counter[str]()
    for row in lines:
        if row.get("kit") != kit:
            continue
        if "begin" in row:
            begun[row["step"]] += 1
        elif (end := row.get("end")) is not None:
            ended[row["step"]] += 1
            if end == "done":
                done.add(row["step"])
            elif end != "no time left":
                failed[row["step"]] += 1
    missing = [s for s in steps if s.name not in done]
    late = {s.name for s in missing if failed[s.name] or begun[s.name] - ended[s.name] > 1}
    return [s for s in missing if s.name not in late] + [s for s in missing if s.name in late]


def run(steps: Sequence[Step], log: Log, seconds: float, began: float) -> list[str]:
    """Runs steps until all are done or time is over; names of those that were not done.

    Args:
        seconds: for all of them, from ``began`` (of ``time.monotonic``).
    """
    end = began + seconds
    left_out = []
    for step in steps:
        left = end - time.monotonic() - TO_END
        if left < FEWEST_SECONDS:
            left_out.append(step.name)
            continue
        log.say(step.name, begin=step.what, left=round(left))
        start = time.monotonic()
        how, more = one(step, log, min(step.limit, left), cut_short=left < step.limit)
        log.say(step.name, end=how, seconds=round(time.monotonic() - start, 2), **more)
        if how != "done":
            left_out.append(step.name)
    return left_out


def one(step: Step, log: Log, limit: float, cut_short: bool = False) -> tuple[str, dict[str, Any]]:
    """How a step ended, in a word, and what else there is to say.

    Args:
        cut_short: the limit is that of the whole, not the step's: to run into it is no fault of the step.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _in_child(step, log)
    deadline = time.monotonic() + limit
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            _kill(child)
            os.waitpid(child, 0)
            return ("no time left" if cut_short else "too long"), {"limit": round(limit, 1)}
        time.sleep(0.02)
    _kill(child)  # what it started and left behind
    if os.WIFSIGNALED(status):
        return "crashed", {"signal": signal.Signals(os.WTERMSIG(status)).name}
    code = os.waitstatus_to_exitcode(status)
    return ("done", {}) if code == 0 else ("failed", {"code": code})


def _in_child(step: Step, log: Log) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent()
        step.call()
        code = 0
    except BaseException as error:  # whatever it is, it must be said before this process is gone
        log.say(step.name, error=f"{type(error).__name__}: {error}"[:600], where=traceback.format_exc()[-1500:])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def die_with_parent() -> None:
    """This process is killed when the one that started it ends, however that ends; on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)
