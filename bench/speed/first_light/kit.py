"""Makes the folder that goes to a machine with a card and without a network: ``make gpu-kit``.

    kit.json       what it was made of       bench/         this package and what it needs
    wheels/        the project, compiled, and what evaluation needs; peer/: DeePMD-kit with what it needs
    cache.tar.xz   kernels for the card      data/          models, the judge's forces, each kernel's work

Made of a checkout as it lies, by two environments: this one, and one with the node's Python, torch and Triton.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from .digest import digest_of

ROOT = Path(__file__).parents[3]
NEEDED = (
    "vesin==0.6.2",
    "ase==3.29.0",
    "safetensors",
    "rich",
    "markdown-it-py",
    "mdurl",
    "pygments",
    "typing_extensions",
)
"""What evaluation needs beside torch, triton and numpy."""
BIG = ("scipy",)
"""ase needs it too; 35 MB, and most machines have it."""
PEER = (
    "deepmd-kit==3.2.0", "dargs", "typeguard", "wcmatch", "bracex", "mendeleev", "array-api-compat", "lmdb", "msgpack",
    "sqlalchemy", "pint<0.25", "platformdirs", "flexcache", "flexparser", "deprecated<2", "wrapt", "colorama<0.5",
    "mpich", "vesin-torch==0.6.2",
)  # fmt: skip
"""DeePMD-kit and what it imports; torch, numpy, scipy, h5py, PyYAML, einops, ml_dtypes and pandas are the machine's."""
GLIBC = (39, 34, 31, 28, 27, 24, 17, 12, 5)
STAGES = (".ttir", ".ttgir", ".llir", ".ptx", ".source")
"""Of a kernel the machine needs its binary and what stands beside it, not the compiler's stages."""
MOST_MIB = 64
VARIED = ("bfloat16", "tf32")
"""Precisions whose launch configurations are varied on the card."""


def download(names: tuple[str, ...], into: Path, python: str) -> None:
    """Wheels for the node's Python, nothing of what they depend on. Those that are there are kept."""
    into.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in GLIBC]
    platforms += [f"--platform=manylinux{x}_x86_64" for x in ("2014", "2010", "1")]
    for name in names:
        stem = name.split("<")[0].split("=")[0].replace("-", "_").lower()
        if any(f.name.lower().startswith(f"{stem}-") for f in into.glob("*.whl")):
            continue
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--implementation=cp",
             f"--python-version={python}", *platforms, "-d", str(into), name], check=True,
        )  # fmt: skip


def without_programs(folder: Path) -> None:
    """Of MPI, which DeePMD-kit loads and does not use here, the libraries alone: a fifth of the wheel."""
    for file in folder.glob("mpich-*.whl"):
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(file.with_suffix(".new"), "w", zipfile.ZIP_LZMA) as new:
            for name in old.namelist():
                if ".dist-info/" in name or ("/data/lib/" in name and "_abi" not in name):
                    new.writestr(name, old.read(name))
        file.with_suffix(".new").rename(file)


def listed() -> list[str]:
    """The checkout's files, those that git does not know yet included, without what it ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [x for x in names if x and (ROOT / x).exists()]


def wheel(into: Path, node: str) -> None:
    """The project with its compiled CPU engine, built from a copy: a build leaves things behind."""
    with tempfile.TemporaryDirectory() as folder:
        for name in listed():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target, follow_symlinks=False)
        for old in into.glob("dpa1_fast-*.whl"):
            old.unlink()
        command = [
            node,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(into.resolve()),
            ".",
        ]
        subprocess.run(command, cwd=folder, check=True)


def bench(into: Path) -> None:
    """The package of benchmarks, of which this is a part."""
    shutil.rmtree(into / "bench", ignore_errors=True)
    for name in listed():
        if name.startswith("bench/"):
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)


def kernels(kit: Path, node: str, options: argparse.Namespace) -> int:
    """Compiles into the cache; what an earlier kit holds is not compiled again. How many could not be."""
    cache = kit / "cache"
    archive = kit / "cache.tar.xz"
    if archive.exists():
        from .__main__ import lay_cache

        shutil.rmtree(cache, ignore_errors=True)
        lay_cache(archive, cache)
        cache.with_suffix(".done").unlink()
    cache.mkdir(exist_ok=True)
    command = [
        node, "-m", "bench.speed.first_light.compile", str(cache), str(kit / "data" / "modelled.json"),
        "--architecture", options.architecture, "--workers", str(options.workers), "--precision", *options.precision,
        "--variants", *(p for p in VARIED if p in options.precision),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    code = subprocess.run(command, cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}).returncode
    with tarfile.open(archive.with_suffix(".new"), "w:xz") as files:
        for file in sorted(cache.rglob("*")):
            if file.is_file() and file.suffix not in STAGES:
                files.add(file, file.relative_to(cache))
    archive.with_suffix(".new").rename(archive)
    shutil.rmtree(cache)
    return code


ABOUT = """
import json, platform, torch, triton, numpy
from hashlib import sha256
from triton.runtime.cache import triton_key
print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__,
  "numpy": numpy.__version__, "triton_key": sha256(triton_key().encode()).hexdigest()[:16]}))
"""


def size(kit: Path) -> float:
    """MiB of all files."""
    return sum(f.stat().st_size for f in kit.rglob("*") if f.is_file()) / 2**20


def main() -> int:
    """Exit status 1 where a kernel did not compile or the kit is larger than may travel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu_kit")
    parser.add_argument(
        "--node", default=sys.executable, help="a Python as on the node, with its torch, Triton and ase"
    )
    parser.add_argument("--python", default="3.12", help="the node's")
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--precision", nargs="+", default=["bfloat16", "tf32", "float32", "float64", "float16"])
    parser.add_argument("--workers", type=int, default=2, help="compilers at a time")
    parser.add_argument("--no-peer", action="store_true", help="without DeePMD-kit (20 MiB)")
    parser.add_argument("--no-kernels", action="store_true", help="none compiled ahead: for a rehearsal on a CPU")
    parser.add_argument("--big", action="store_true", help="scipy and the compressed model too (50 MiB more)")
    parser.add_argument("--quick", action="store_true", help="no systems of more than 10,000 atoms")
    options = parser.parse_args()
    options.node = os.path.abspath(options.node)  # commands run elsewhere too; a venv's link is not followed
    kit = options.output.resolve()
    kit.mkdir(parents=True, exist_ok=True)
    digest = digest_of(ROOT)
    before = json.loads((kit / "kit.json").read_text(encoding="utf-8")) if (kit / "kit.json").exists() else {}
    (kit / "kit.json").unlink(missing_ok=True)  # a kit that is not whole is none
    download((*NEEDED, *(BIG if options.big else ())), kit / "wheels", options.python)
    if not options.no_peer:
        download(PEER, kit / "peer", options.python)
        without_programs(kit / "peer")
    if before.get("digest") != digest:
        shutil.rmtree(kit / "data", ignore_errors=True)
    if before.get("digest") != digest or not list((kit / "wheels").glob("dpa1_fast-*.whl")):
        print("the project's wheel …", flush=True)
        wheel(kit / "wheels", options.node)
    print("what the card is judged by …", flush=True)
    command = [sys.executable, "-m", "bench.speed.first_light.judge", str(kit / "data"), "--architecture"]
    flags = [*(["--quick"] if options.quick else []), *(["--big"] if options.big else [])]
    command += [options.architecture, "--precision", *options.precision, *flags]
    subprocess.run(command, cwd=ROOT, check=True)
    code = 0
    if not options.no_kernels:
        print("kernels …", flush=True)
        code = kernels(kit, options.node, options)
    bench(kit)
    found = subprocess.run([options.node, "-c", ABOUT], capture_output=True, text=True, check=True).stdout
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout
    about = {
        "made": time.strftime("%Y%m%d-%H%M%S"), "commit": commit.strip(), "digest": digest,
        "architecture": options.architecture, "node": json.loads(found.splitlines()[-1]),
        "wheels": sorted(f.name for f in kit.glob("*/*.whl")),
    }  # fmt: skip
    (kit / "kit.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    whole = size(kit)
    print(f"{kit}: {whole:.0f} MiB" + (f", more than the {MOST_MIB} that travel" if whole > MOST_MIB else ""))
    return int(bool(code) or (whole > MOST_MIB and not options.big))


if __name__ == "__main__":
    sys.exit(main())
