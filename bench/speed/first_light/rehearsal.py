"""The kit without a card and without a network, killed again and again: what was said must be there, and make a page.

    python -m bench.speed.first_light.rehearsal build/gpu_kit --python NODE --out build/rehearsal

Starts the kit's one command with the node's Python where no network is (``unshare -rn``), the CPU in place of the card,
and kills it after some seconds, chosen at random; the next start goes on. After each kill: every line that was on
the screen is in the file, what was there before still is, nothing runs on, no step that was done is done again, and a
page is made. Exit code 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .findings import gather
from .lines import NAME, read
from .page import page

STEPS = "facts,ceilings,evaluations,repeats,kernels,sizes"
WITHOUT_NETWORK = ("unshare", "-rn")
SETTLING_S = 0.5
"""How long after a kill the file is looked at again."""


def command(options: argparse.Namespace) -> list[str]:
    """That starts the kit."""
    here = [] if options.network else list(WITHOUT_NETWORK)
    return [
        *here, str(options.python), "-m", "bench.speed.first_light", "--device", "cpu", "--seconds",
        str(options.seconds), "--out", str(options.out), "--scratch", str(options.out / "scratch"), "--steps",
        options.steps,
    ]  # fmt: skip


def killed(options: argparse.Namespace, after: float) -> str:
    """What a start had on the screen when it was killed, or had ended."""
    with (options.out / "screen").open("w+", encoding="utf-8") as screen:
        process = subprocess.Popen(
            command(options), cwd=options.kit, stdout=screen, stderr=subprocess.STDOUT, start_new_session=True,
            env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TRITON_INTERPRET")},
        )  # fmt: skip
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # not its children: they must end by themselves
            process.wait()
        screen.seek(0)
        return screen.read()


def wrong(screen: str, before: Sequence[dict[str, Any]], folder: Path) -> Iterator[str]:
    """What does not hold after a kill.

    Args:
        screen: what was on it. before: lines of the file when it was started. folder: of the file.
    """
    now = read(folder)
    if now[: len(before)] != before:
        yield "lines of an earlier start are gone"
    fresh = [json.dumps({k: v for k, v in x.items() if k not in ("at", "kit")})[:400] for x in now[len(before) :]]
    for line in screen.splitlines(keepends=True):
        if line.startswith('{"step"') and line.endswith("\n") and line.rstrip("\n") not in fresh:
            yield f"on the screen, not in the file: {line[:100]}"
    twice = [step for step, n in Counter(x["step"] for x in now if x.get("end") == "done").items() if n > 1]
    if twice:
        yield f"done twice: {', '.join(twice)}"
    if now and page(gather(now), None).count("<h1>") != 1:
        yield "no page"
    size = (folder / NAME).stat().st_size if now else 0
    time.sleep(SETTLING_S)
    if now and (folder / NAME).stat().st_size != size:
        yield "something runs on"


def main(argv: Sequence[str] | None = None) -> int:
    """Kills, and says what was there after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path, help="its folder")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="as on the node")
    parser.add_argument("--out", type=Path, required=True, help="folder for results and what is laid out; made anew")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=120, help="of a start; it is killed before that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", default=STEPS)
    parser.add_argument("--network", action="store_true", help="where unshare may not be used")
    options = parser.parse_args(argv)
    options.kit, options.out = options.kit.resolve(), options.out.resolve()
    options.python = Path(os.path.abspath(options.python))  # a venv's link is not followed
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    dice, bad, known = random.Random(options.seed), 0, list[dict[str, Any]]()
    for k in range(options.kills):
        after = dice.uniform(0, options.seconds)
        screen = killed(options, after)
        found = list(wrong(screen, known, options.out))
        known = read(options.out)
        done = [x["step"] for x in known if x.get("end") == "done"]
        open_ = [x["step"] for x in known if "begin" in x][-1:]
        print(
            f"kill {k + 1} after {after:.1f} s: {len(known)} lines, {len(done)} steps done, in {open_ or 'none'}; "
            + ("; ".join(found) or "all there"),
            flush=True,
        )
        bad += len(found)
    last = screen.strip().splitlines()[-3:] if not known else []
    print("\n".join(last) + f"{bad} things do not hold" if bad or last else "nothing was lost")
    return int(bool(bad) or not known)


if __name__ == "__main__":
    sys.exit(main())
