"""What ``make dist`` made, in a fresh environment: ``python tests/release/check.py FILE --python python3.12``.

A wheel is installed as on a machine without a compiler (none is on the path); then the example structures are screened
with the compiled engine. torch is installed first, and the time of all else is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCH = "torch==2.13.0"
"""As in constraints.txt; it brings numpy."""

USED = """
import dpa1_fast, sys
from ase.build import bulk
engine = dpa1_fast.load("almgcu-demo")
assert "site-packages" in dpa1_fast.__file__, dpa1_fast.__file__
assert engine.backend == "cpu", engine.backend
print(dpa1_fast.__version__, "on Python", sys.version.split()[0], engine.evaluate([bulk("Al")])[0].energy, "eV")
"""


def main() -> int | str:
    """0 where all of it worked, or why it could not be tried."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a wheel or an sdist")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--folder", type=Path, default=Path("build/dist"), help="for environments, which are kept")
    given = parser.parse_args()
    wheel = given.file.suffix == ".whl"
    try:
        version = subprocess.check_output(
            [given.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return f"{given.python} cannot be run here; name those that can: make dist-check DIST_PYTHONS='python3.11 …'"
    place = (given.folder / f"{'wheel' if wheel else 'sdist'}-{version.strip()}").resolve()
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([given.python, "-m", "venv", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", TORCH], check=True)
    bare = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CC", "CXX", "LDFLAGS")}
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--force-reinstall",
        "--no-deps",
        str(given.file.resolve()),
    ]
    needs = [str(python), "-m", "pip", "install", "--quiet", "dpa1-fast"]  # it is there: what it needs
    if wheel:
        bare["PATH"] = str(place / "bin")  # no compiler, nor anything else
        install.insert(-1, "--only-binary=:all:")
    started, busy = time.monotonic(), os.times()
    for command in (install, needs):
        subprocess.run(command, env=bare, check=True)
    took, after = time.monotonic() - started, os.times()
    processor = after.children_user + after.children_system - busy.children_user - busy.children_system
    subprocess.run([str(python), "-c", USED], cwd=place, env=bare, check=True)
    screen = [
        str(place / "bin" / "dpa1-fast"),
        "screen",
        str(ROOT / "examples/structures/*.extxyz"),
        "--model",
        "almgcu-demo",
    ]
    subprocess.run([*screen, "--output", "results", "--overwrite", "--no-report"], cwd=place, env=bare, check=True)
    told = f"installed beside torch in {took:.0f} s, {processor:.0f} s of processor time"
    print(f"{given.file.name}: {told}; screened the examples")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
