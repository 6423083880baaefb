"""Random calls of ``dpa1_fast.h`` under AddressSanitizer and UBSan: nothing beyond an array, nothing undefined.

pytest tests/fuzz --fuzz-examples 100000      (make fuzz)
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import BASE, OPTIONS, make_model
from test_cpu_engine import MORE

from dpa1_fast.kernels.prepare import bases, chebyshev
from dpa1_fast.prepared import NATIVE, write_prepared

CALLS = Path(__file__).with_name("c_api_calls.cpp")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler")
def test_random_calls_under_sanitizers(
    fuzz_examples: int, quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "calls"
    sources = [CALLS, NATIVE / "library.cpp", NATIVE / "c_api.cpp"]
    flags = ["-std=c++17", "-O1", "-g1", "-w", "-pthread", f"-I{NATIVE / 'include'}", *SANITIZE]
    subprocess.run(["c++", *flags, *map(str, sources), "-o", str(program)], check=True)
    monkeypatch.setattr(chebyshev, "most_terms", lambda shapes: chebyshev.MOST_TERMS)
    monkeypatch.setattr(bases, "WORTH", 2.0)
    options = OPTIONS | {"parameters": MORE["fitting_parameters"], "out": MORE["pairs_out"], "few": {"sel": (5,)}}
    files = []
    for name, extra in options.items():
        model = make_model(**extra)
        if name == "strip":
            model.davg.uniform_(-0.1, 0.1)
        files.append(tmp_path / name)
        write_prepared(model, files[-1], BASE.type_map[:2] if name == "few" else None, ["float64", "float32"])
    seed = int(np.random.default_rng().integers(1 << 30)) if fuzz_examples > 1000 else 1
    done = subprocess.run(
        [program, str(max(fuzz_examples, 1000)), str(seed), *files],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"},
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    print(done.stdout)
    seen = [int(x) for x in done.stdout.split(":")[1].split()]
    assert seen[0] > sum(seen) / 2  # most calls are fine ones
    assert all(seen[k] for k in (0, 2, 6, 7))
