"""Times benchmarks of this suite with the package of another folder: ``python worker.py ROOT``, names on stdin.

The suite is that of the file's own folder, ``dpa1_fast`` that of ROOT, so that both sides of a comparison run the
same code around what is compared. Each line in is a name and how many runs to average; each line out is JSON.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent


def borrow_suite() -> None:
    """Makes ``bench`` the folder that this file lies in, whatever else is called so."""
    where = {"submodule_search_locations": [str(BENCH)]}
    spec = importlib.util.spec_from_file_location("bench", BENCH / "__init__.py", **where)  # type: ignore[arg-type]
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module
    spec.loader.exec_module(module)


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    sys.path[0] = str(root)
    borrow_suite()
    import torch

    import dpa1_fast

    torch.set_num_threads(1)
    if not Path(dpa1_fast.__file__).resolve().is_relative_to(root):
        raise SystemExit(f"{dpa1_fast.__file__} is not in {root}")
    from bench.suite.benchmark import Wrong, load

    made: dict[str, Any] = {}
    entries = load()
    print(json.dumps({"version": dpa1_fast.__version__}), flush=True)
    for line in sys.stdin:
        name, runs = line.rstrip("\n").rsplit("\t", 1)
        try:
            if name not in made:
                made[name] = entries[name].make()
                made[name].check()
                made[name].run()
            began = time.perf_counter()
            for _ in range(int(runs)):
                made[name].run()
            answer = {"seconds": (time.perf_counter() - began) / int(runs)}
        except Wrong as error:
            answer = {"wrong": str(error)}
        except Exception as error:  # an older revision may lack what a benchmark asks for
            answer = {"lacks": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
