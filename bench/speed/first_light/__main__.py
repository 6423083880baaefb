"""One command on a machine with a card and without a network: Python, torch, triton, numpy and scipy are enough.

    python3 -m bench.speed.first_light --seconds 480 --out DIR

Lays the kit out in a scratch folder (seconds; once), then runs what is missing in DIR. Where it may be killed at any
second, DIR holds all that was known; started again with it, it goes on. ``docs/first_light.md`` says how to read it.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

BEGAN = time.monotonic()
ROOT = Path(__file__).resolve().parents[3]


def kit_folder(given: str) -> Path:
    """The kit: what was named, or that which this file is part of, or the checkout's.

    Raises:
        SystemExit: there is none.
    """
    places = [Path(given)] if given else [ROOT, ROOT / "build" / "gpu_kit"]
    for place in places:
        if (place / "kit.json").exists():
            return place.resolve()
    raise SystemExit(
        f"no kit in {' or '.join(str(p) for p in places)}: make one with `make gpu-kit`, or name it by --kit"
    )


def unpack(wheels: Path, site: Path) -> None:
    """Lays wheels out side by side; what was begun and not ended is done again."""
    done = site.with_suffix(".done")
    if done.exists():
        return
    site.mkdir(parents=True, exist_ok=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                top, _, rest = name.partition("/")
                kind, _, inner = rest.partition("/")
                if not top.endswith(".data") or kind == "data":  # data: left where the wheel's list of files has it
                    archive.extract(name, site)
                elif kind in ("purelib", "platlib") and not name.endswith("/"):
                    target = site / inner
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
    done.touch()


def lay_cache(archive: Path, cache: Path) -> None:
    """Triton's cache; its files name one another by absolute paths, which become those of here."""
    done = cache.with_suffix(".done")
    if done.exists() or not archive.exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as files:
        files.extractall(cache, filter="data")
    for group in cache.glob("*/__grp__*.json"):
        told = json.loads(group.read_text(encoding="utf-8"))
        told["child_paths"] = {k: str(group.parent / Path(v).name) for k, v in told["child_paths"].items()}
        group.write_text(json.dumps(told), encoding="utf-8")
    done.touch()


def main() -> None:
    """Lays out, and becomes the process that runs the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480, help="for everything, this process' start included")
    parser.add_argument("--out", type=Path, required=True, help="folder for results; one with some is gone on with")
    parser.add_argument("--kit", default="", help="the kit's folder (default: this one, or build/gpu_kit)")
    parser.add_argument("--device", default="cuda:0", help='"cpu": a rehearsal in Triton\'s interpreter')
    parser.add_argument("--steps", default="", help="only those whose names begin so, by commas")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for what is laid out")
    parser.add_argument("--source", type=Path, default=None, help="a checkout to run instead of the kit's own code")
    options = parser.parse_args()
    kit = kit_folder(options.kit)
    about = json.loads((kit / "kit.json").read_text(encoding="utf-8"))
    name = f"first_light-{getpass.getuser()}-{about['made']}"
    scratch = (options.scratch or Path(tempfile.gettempdir()) / name).resolve()
    unpack(kit / "wheels", scratch / "site")
    unpack(kit / "peer", scratch / "peer")
    lay_cache(kit / "cache.tar.xz", scratch / "cache")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    (out / "kit.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    digest = about["digest"]
    paths = [str(kit), str(scratch / "site")]
    if options.source:
        sys.path.insert(0, str(kit))
        from bench.speed.first_light.digest import digest_of

        paths.insert(0, str(options.source.resolve()))
        digest = digest_of(options.source.resolve())
    before = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *([before] if before else [])]),
        "PYTHONUNBUFFERED": "1",
        "TRITON_CACHE_DIR": str(scratch / "cache"),
        "FIRST_LIGHT_PEER": str(scratch / "peer"),
        "XDG_CACHE_HOME": str(scratch / "xdg"),
    }
    environment.pop("TRITON_INTERPRET", None)
    environment.setdefault("OMP_NUM_THREADS", "8")
    os.chdir(scratch)
    command = [
        sys.executable, "-m", "bench.speed.first_light.run", "--data", str(kit / "data"), "--out", str(out),
        "--scratch", str(scratch), "--device", options.device, "--seconds", str(options.seconds),
        "--began", str(BEGAN), "--digest", digest, "--steps", options.steps,
    ]  # fmt: skip
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    main()
