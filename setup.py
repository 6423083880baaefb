"""Compiles the CPU engine, once for each instruction set that this architecture has; all else is in pyproject.toml.

Without a C++ compiler the package installs all the same, and models run on the (much slower) reference backend. The
engine is a library that knows no Python (ctypes loads it), so that one wheel serves every Python.
"""

import copy
import platform
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("kernels/cpu/native")
X86 = {
    "avx512bf16": ["-march=x86-64-v4", "-mavx512bf16"],
    "avx512": ["-march=x86-64-v4"],
    "avx2": ["-march=x86-64-v3"],
    "baseline": [],
}
BUILDS = X86 if platform.machine().lower() in ("x86_64", "amd64") else {"baseline": []}


class BuildApart(build_ext):
    """Objects of each build in a folder of its own: all have the same sources, and are compiled at the same time."""

    def get_ext_filename(self, fullname: str) -> str:
        """A library's name, without the version of a Python."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """See setuptools."""
        own: Any = copy.copy(self)
        own.build_temp = str(Path(self.build_temp) / ext.name)
        super(BuildApart, own).build_extension(ext)


class AnyPython(bdist_wheel):
    """A wheel for one kind of machine and all Pythons that ``requires-python`` names."""

    def get_tag(self) -> tuple[str, str, str]:
        """See setuptools."""
        return "py3", "none", super().get_tag()[2]


setup(
    cmdclass={"build_ext": BuildApart, "bdist_wheel": AnyPython},
    ext_modules=[
        Extension(
            f"dpa1_fast.kernels.cpu._native_{build}",
            [str(SOURCES / name) for name in ("library.cpp", "c_api.cpp", "training.cpp")],
            depends=[str(path) for path in sorted(SOURCES.rglob("*.h"))],
            language="c++",
            extra_compile_args=["-O3", "-std=c++17", "-fno-math-errno", "-Wno-psabi", "-g0", "-pthread", *flags],
            extra_link_args=["-pthread"],
            optional=True,
        )
        for build, flags in BUILDS.items()
    ],
)
