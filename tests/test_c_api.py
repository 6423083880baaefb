"""The engine without Python: prepared model files, and ``dpa1_fast.h`` against ``Engine.evaluate``."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import c_interface as c
import numpy as np
import pytest
from ase import Atoms
from commands import run_command as run
from conftest import BASE, OPTIONS, crystal, make_model, molecule
from test_cpu_engine import MORE, structures

from dpa1_fast import DPA1, Engine, load
from dpa1_fast.errors import BackendError, ConfigError, DPA1Warning
from dpa1_fast.kernels.cpu import library
from dpa1_fast.kernels.prepare import bases, chebyshev, merging, prepared_file
from dpa1_fast.prepared import write_prepared

pytestmark = pytest.mark.skipif(not library.available(), reason="the CPU engine was not compiled: no C++ compiler")

NATIVE = Path(library.__file__).parent / "native"
EXAMPLES = Path(__file__).parents[1] / "examples"
SAME = 1e-9  # eV, eV/Å: what two ways to the same edges may differ by


def prepared(model: DPA1, folder: Path, *elements: str) -> Path:
    path = folder / "model.prepared"
    write_prepared(model, path, elements or None)
    return path


def system(model: DPA1, atoms: Atoms) -> c.System:
    s = c.system(atoms, model.config.type_map, model.config.rcut)
    if model.config.fitting.numb_fparam:
        s.frame = atoms.info["fparam"]
    if model.config.fitting.numb_aparam:
        s.atomic = atoms.arrays["aparam"][s.home]
    return s


def assert_same(model: DPA1, path: Path, atoms: list[Atoms]) -> None:
    judge = Engine(model, backend="cpu").evaluate(atoms, atomic_virials=True)
    loaded = c.Model(path)
    assert loaded.status == c.DONE, loaded.said
    for a, expected in zip(atoms, judge, strict=True):
        found = loaded.evaluate(system(model, a))
        assert found.status == c.DONE, found.said
        assert abs(found.results.energy - expected.energy) < SAME
        assert np.abs(found.energies - expected.energies).max() < SAME
        assert np.abs(found.forces - expected.forces).max() < SAME
        assert np.abs(found.virial - expected.virial).max() < SAME
        assert expected.atomic_virials is not None
        assert np.abs(found.virials - expected.atomic_virials).max() < SAME
        assert np.abs(found.virials.sum(0) - found.virial).max() < SAME


@pytest.mark.parametrize("name", [*OPTIONS, *MORE])
def test_local_and_ghost_atoms_give_what_the_engine_gives(name: str, quiet: None, tmp_path: Path) -> None:
    model = make_model(**(OPTIONS | MORE)[name])
    assert_same(model, prepared(model, tmp_path), structures(model))


@pytest.mark.parametrize("name", ["smooth", "strip", "no_attention"])
def test_series_and_bases_come_from_the_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chebyshev, "most_terms", lambda shapes: chebyshev.MOST_TERMS)
    monkeypatch.setattr(bases, "WORTH", 2.0)
    model = make_model(**OPTIONS[name] | {"neuron": (10, 20, 40)})
    path = prepared(model, tmp_path)
    assert b"float64.series.0.c" in path.read_bytes()
    assert b"float64.basis.2.span" in path.read_bytes()
    assert (b"float64.basis.2.head" in path.read_bytes()) == (name == "no_attention")
    assert_same(model, path, structures(model))


@pytest.mark.parametrize("name", ["smooth", "strip"])
def test_a_model_that_depends_on_the_first_atom(name: str, quiet: None, tmp_path: Path) -> None:
    model = make_model(**OPTIONS[name])
    model.davg.uniform_(-0.1, 0.1)
    path = prepared(model, tmp_path)
    assert_same(model, path, structures(model))
    assert c.Model(path).info().needs_first_type
    s = system(model, molecule(5))
    s.first_type = -1
    assert "needs first_type" in c.Model(path).evaluate(s).said


def test_the_nearest_count_where_there_are_more_than_sel(quiet: None, tmp_path: Path) -> None:
    model = make_model(sel=(6,))
    path = prepared(model, tmp_path)
    with pytest.warns(DPA1Warning, match="more than sel"):
        assert_same(model, path, [molecule(12)])
    found = c.Model(path).evaluate(system(model, molecule(12))).results
    assert (found.over, found.most) == (10, 11)


def test_a_ragged_list_in_any_order_with_marked_bits_and_virtual_atoms(tmp_path: Path) -> None:
    """As LAMMPS has them: rows with bits of special bonds on top, centres in an order of their own."""
    model = make_model()
    loaded = c.Model(prepared(model, tmp_path))
    plain = system(model, crystal())
    expected = loaded.evaluate(plain)
    marked = system(model, crystal())
    rng = np.random.default_rng(3)
    for row in marked.rows:
        rng.shuffle(row)
        row |= rng.integers(0, 4, len(row)).astype(np.int32) << 29
    marked.mask, marked.center = 0x1FFFFFFF, np.array([3, 0, 4, 1, 2], dtype=np.int32)
    found = loaded.evaluate(marked)
    assert np.abs(found.forces - expected.forces).max() < 1e-12
    ghost = replace(plain, type=np.where(plain.home == 2, -1, plain.type).astype(np.int32))
    kept = [0, 1, 3, 4]
    without = Engine(model).evaluate([crystal()[kept]])[0]
    found = loaded.evaluate(ghost)
    assert abs(found.results.energy - without.energy) < SAME
    assert np.abs(found.forces[kept] - without.forces).max() < SAME
    assert not found.forces[2].any()


def test_half_of_the_atoms_and_then_the_other_half_are_the_whole(tmp_path: Path) -> None:
    """What two processes do: each evaluates its own centres, forces on all atoms add up."""
    model = make_model()
    loaded, s = c.Model(prepared(model, tmp_path)), system(model, molecule(9))
    whole = loaded.evaluate(s)
    forces, energy, virial = np.zeros((9, 3)), 0.0, np.zeros((3, 3))
    for part in (s.center[:4], s.center[4:]):
        arrays = np.zeros((9, 3))

        def take(given: c.AtomsGiven, out: c.Results, part: np.ndarray = part, arrays: np.ndarray = arrays) -> None:
            given.centers, given.center, out.forces = len(part), part.ctypes.data, arrays.ctypes.data

        found = loaded.evaluate(s, take)
        forces, energy, virial = forces + arrays, energy + found.results.energy, virial + found.virial
    assert abs(energy - whole.results.energy) < 1e-12
    assert np.abs(forces - whole.forces).max() < 1e-12
    assert np.abs(virial - whole.virial).max() < 1e-12


@pytest.mark.parametrize(("precision", "bar"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_precisions_are_the_engines(precision: str, bar: float, tmp_path: Path) -> None:
    model = make_model(attn=32)
    path, atoms = prepared(model, tmp_path), molecule(18, 2)
    loaded = c.Model(path, precision)
    if precision == "bfloat16" and not library.has_bfloat16():
        assert loaded.status == c.UNAVAILABLE
        assert "AVX512-BF16" in loaded.said
        return
    found, exact = loaded.evaluate(system(model, atoms)), c.Model(path).evaluate(system(model, atoms))
    error = np.sqrt(np.mean((found.forces - exact.forces) ** 2) / np.mean(exact.forces**2))
    assert 1e-9 < error < bar
    threads = c.Model(path, precision, threads=3).evaluate(system(model, atoms))
    assert np.array_equal(threads.forces, found.forces)


def test_a_file_for_some_elements_refuses_atoms_of_others(tmp_path: Path) -> None:
    model = make_model()
    path = prepared(model, tmp_path, "O", "H")
    assert_same(model, path, [Atoms("HOH", molecule(3).positions), Atoms("O")])
    found = c.Model(path).evaluate(system(model, Atoms("HC", [[0, 0, 0], [1, 0, 0]])))
    assert (found.status, found.results.atom) == (c.BAD_ARGUMENT, 1)
    assert found.said == "atom 1 is of type C, for which the model file was not compiled"
    loaded = c.Model(path)
    assert [loaded.lib.dpa1_fast_has_type(loaded.handle, t) for t in (-1, 0, 1, 2, 3)] == [0, 1, 0, 1, 0]
    assert [loaded.lib.dpa1_fast_type_name(loaded.handle, t) for t in (-1, 0, 3)] == [None, b"H", None]


# --- what is refused, in words ----------------------------------------------------------------------------------------


def test_bad_atoms_are_named_and_nothing_is_added(tmp_path: Path) -> None:
    model = make_model()
    loaded = c.Model(prepared(model, tmp_path))
    near = Atoms("HOC", [[0, 0, 0], [1.2, 0, 0], [1.2, 0, 5e-4]])
    found = loaded.evaluate(system(model, near))
    assert (found.status, found.results.atom, found.results.other) == (c.OVERLAP, 1, 2)
    assert found.said == "atom 1 overlaps atom 2: they are 0.0005 Å apart"
    assert not found.forces.any()
    assert not found.energies.any()
    lost = system(model, molecule(4))
    lost.position[2, 1] = np.nan
    found = loaded.evaluate(lost)
    assert (found.status, found.results.atom) == (c.NOT_FINITE, 2)
    for spoil, said in (
        (lambda s: s.type.__setitem__(1, 7), "atom 1 has type 7, and types are −1 to 2"),
        (lambda s: s.rows[0].__setitem__(0, 99), "atom 0 has neighbour 99, which does not exist"),
        (lambda s: s.rows[0].__setitem__(0, -5), "atom 0 has neighbour -5, which does not exist"),
        (lambda s: s.center.__setitem__(0, 3), "atom 3 is twice among the centres"),
        (lambda s: s.center.__setitem__(0, -1), "atom -1 is among the centres and does not exist"),
    ):
        s = system(model, molecule(4))
        spoil(s)
        found = loaded.evaluate(s)
        assert (found.status, found.said) == (c.BAD_ARGUMENT, said)


def test_an_overflow_names_an_atom(tmp_path: Path) -> None:
    model = make_model()
    model.out_bias.fill_(float("1e308"))
    model.fitting.layers[-1].bias.data.fill_(1e308)
    found = c.Model(prepared(model, tmp_path)).evaluate(system(model, molecule(4)))
    assert found.status == c.NOT_FINITE
    assert "far too close together" in found.said


def test_parameters_that_are_missing_are_asked_for(tmp_path: Path) -> None:
    model = make_model(**MORE["fitting_parameters"])
    loaded, s = c.Model(prepared(model, tmp_path)), c.system(molecule(4), BASE.type_map, BASE.rcut)
    assert (loaded.info().frame_parameters, loaded.info().atomic_parameters) == (2, 1)
    assert "needs 2 frame parameters" in loaded.evaluate(s).said
    s.frame = np.zeros(2)
    assert "needs 1 atomic parameters of every atom" in loaded.evaluate(s).said


def test_structures_of_another_version_are_not_mixed_silently(tmp_path: Path) -> None:
    model = make_model()
    loaded = c.Model(prepared(model, tmp_path))
    for change in (lambda a, r: setattr(a, "size", 8), lambda a, r: setattr(r, "size", 0)):
        found = loaded.evaluate(system(model, molecule(3)), change)
        assert found.status == c.BAD_ARGUMENT
        assert "another version of dpa1_fast.h" in found.said
    info = c.Info(3)
    assert loaded.lib.dpa1_fast_describe(loaded.handle, info) == c.BAD_ARGUMENT


def test_the_header_is_what_the_tests_speak(tmp_path: Path) -> None:
    """Sizes of the structures by a C compiler, and what C and Python say of chunks."""
    source = tmp_path / "sizes.c"
    names = {"options": c.Options, "info": c.Info, "atoms": c.AtomsGiven, "results": c.Results}
    printed = "".join(f'printf("%zu ", sizeof(dpa1_fast_{name}));' for name in names)
    source.write_text(f'#include <stdio.h>\n#include "dpa1_fast.h"\nint main(void) {{ {printed} return 0; }}\n')
    flags = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{NATIVE / 'include'}"]
    subprocess.run(["cc", *flags, str(source), "-o", str(tmp_path / "sizes")], check=True)
    told = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout.split()
    assert [int(x) for x in told] == [c.sizeof(x) for x in names.values()]
    text = (NATIVE / "c_api.cpp").read_text(encoding="utf-8")
    said = [int(a) << int(b) for a, b in re.findall(r"CHUNK_BYTES = (\d+) << (\d+)", text)]
    assert said == [library.CHUNK_BYTES, library.BFLOAT16_CHUNK_BYTES]
    assert f"CHUNK_ATOMS = {library.CHUNK_ATOMS};" in text


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")
def test_the_example_links_by_cmake_and_needs_no_python(tmp_path: Path) -> None:
    build, flags = tmp_path / "build", "-DDPA1_FAST_FLAGS=-O1"
    where = run("cmake-dir").stdout.strip()
    configure = ["cmake", "-S", str(EXAMPLES / "c"), "-B", str(build), f"-Ddpa1_fast_DIR={where}", flags]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(build)], check=True, capture_output=True)
    path = tmp_path / "almgcu.prepared"
    run("compile", "almgcu-demo", path)
    told = subprocess.run([build / "dimer", path], check=True, capture_output=True, text=True, env={}).stdout.split(
        "\n"
    )
    pair = Atoms("Mg2", [[0, 0, 0], [2.0, 0, 0]])
    expected = load("almgcu-demo").evaluate([pair])[0]
    assert told[0] == "Mg-Mg"
    assert [float(x) for x in told[2].split()] == pytest.approx([2.0, expected.energy, expected.forces[1, 0]], abs=1e-6)
    failed = subprocess.run([build / "dimer", "nothing"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr) == (1, "nothing cannot be read: is there such a file?\n")


# --- damaged and strange files ----------------------------------------------------------------------------------------


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    loaded = c.Model(path)
    assert loaded.status == c.BAD_FILE
    assert loaded.said.startswith(f"{path} ")
    return loaded.said


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = prepared(make_model(), tmp_path)
    whole = path.read_bytes()
    assert c.Model(path).info().checksum == struct.unpack("<I", whole[12:16])[0]
    rng = np.random.default_rng(0)
    for k in rng.integers(0, len(whole), 300):
        flipped = bytearray(whole)
        flipped[k] ^= 1 << rng.integers(8)
        refused(path, bytes(flipped))
    for k in (0, 7, 8, 23, 24, 1000, len(whole) - 1):
        assert "cut short" in refused(path, whole[:k]) or k < 8
    assert "damaged" in refused(path, whole + b"x")
    assert "version 2 of prepared model files" in refused(path, whole[:8] + b"\2" + whole[9:])
    assert "is not a prepared model file" in refused(path, b"PK\3\4 something else")
    missing = c.Model(tmp_path / "nothing")
    assert missing.status == c.BAD_FILE
    assert "is there such a file?" in missing.said


def entries(data: bytes) -> list[tuple[int, str, int, bytes]]:
    out, at = [], 24
    while at < len(data):
        kind, key, count = struct.unpack("<IIQ", data[at : at + 16])
        start = at + 16 + -(-key // 8) * 8
        size = count * 8 if kind == 0 else count
        out.append((kind, data[at + 16 : at + 16 + key].decode(), count, data[start : start + size]))
        at = start + -(-size // 8) * 8
    return out


def signed(parts: list[tuple[int, str, int, bytes]]) -> bytes:
    body = b"".join(prepared_file._entry(*x) for x in parts)
    rest = struct.pack("<Q", 24 + len(body)) + body
    return prepared_file.MAGIC + struct.pack("<II", prepared_file.VERSION, zlib.crc32(rest)) + rest


@pytest.mark.parametrize(
    "name", ["smooth", "no_attention", *(pytest.param(x, marks=pytest.mark.slow) for x in ("strip", "fitting"))]
)
def test_crafted_files_with_a_right_checksum_cannot_reach_beyond_their_numbers(
    name: str, quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every entry in turn is left out, cut, grown, and holds what makes no sense: refused, or harmless."""
    monkeypatch.setattr(chebyshev, "most_terms", lambda shapes: chebyshev.MOST_TERMS)
    monkeypatch.setattr(bases, "WORTH", 2.0)
    options: dict[str, Any] = MORE["fitting_parameters"] if name == "fitting" else OPTIONS[name]
    model = make_model(**options)
    path = prepared(model, tmp_path)
    parts = entries(path.read_bytes())
    assert signed(parts) == path.read_bytes()
    s = system(make_model(), molecule(6))
    s.frame, s.atomic = np.zeros(2), np.zeros((6, 1))
    fine, told = 0, (c.DONE, c.NOT_FINITE, c.BAD_ARGUMENT)  # the last of atoms that such a file is not for
    for k, (kind, key, count, data) in enumerate(parts):
        if kind == 1 or not key.startswith(("model.", "float64.", "compiled", "f", "a", "i", "case", "default")):
            continue
        spoilt = [
            (count - 1, data[8:]), (count + 1, data + struct.pack("<d", 1.0)), (0, b""),
            *[(count, struct.pack("<d", x) + data[8:]) for x in (0.5, 1e300, np.nan) if count],
        ]  # fmt: skip
        for n, new in [x for x in spoilt if x[0] >= 0]:
            path.write_bytes(signed([*parts[:k], (kind, key, n, new), *parts[k + 1 :]]))
            loaded = c.Model(path)
            assert loaded.status in (c.DONE, c.BAD_FILE), f"{key}: {loaded.said}"
            if loaded.status == c.DONE:
                fine += 1
                assert loaded.evaluate(s).status in told
        path.write_bytes(signed([*parts[:k], *parts[k + 1 :]]))
        loaded = c.Model(path)
        if loaded.status == c.DONE:
            assert loaded.evaluate(s).status in told
    assert fine  # an odd weight is a weight


# --- compile ----------------------------------------------------------------------------------------------------------


def test_the_command_compiles_a_bundled_model(tmp_path: Path) -> None:
    path = tmp_path / "almgcu.prepared"
    done = run("compile", "almgcu-demo", path, "--precision", "float64,float32")
    assert done.returncode == 0, done.stderr
    assert "MB for Mg Al Cu, float64, float32" in done.stdout
    assert c.Model(path).info().producer.startswith(b"dpa1-fast ")
    lacking = c.Model(path, "bfloat16")
    assert lacking.status == c.UNAVAILABLE
    assert c.Model(path, "float16").said == "there is no precision float16; available: float64, float32, bfloat16"
    failed = run("compile", "almgcu-demo", path, "--elements", "Al,Zn")
    assert (failed.returncode, failed.stderr) == (
        2,
        "error: the model does not know the element 'Zn'; it knows Mg Al Cu\n",
    )


def test_what_cannot_be_compiled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = ("H", "C", "O", "N", "S", "P", "F", "Cl", "Na")
    with pytest.raises(ConfigError, match="has 9 elements; name those that will be simulated"):
        write_prepared(make_model(type_map=many), tmp_path / "x")
    done = write_prepared(make_model(type_map=many), tmp_path / "x", ["all"], ["float32"])
    assert "--elements" in done.note
    assert done.elements == many
    with pytest.raises(ConfigError, match="no precision 'tf32'"):
        write_prepared(make_model(), tmp_path / "y", None, ["tf32"])
    monkeypatch.setattr(merging, "ACTIVATIONS", ("relu",))
    with pytest.raises(BackendError, match="is not known to this backend"):
        write_prepared(make_model(), tmp_path / "y")
    assert not (tmp_path / "y").exists()
