"""Any locale, any terminal, any file name, any file system: the job ends in order, and what is said is true."""

from __future__ import annotations

import ast
import csv
import errno
import fcntl
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ase import Atoms
from ase.io import write
from commands import run_command
from screening import MODEL, alloys, input_file, rows, screen

from dpa1_fast import screen as screen_here
from dpa1_fast.errors import DPA1Warning
from dpa1_fast.printable import name_of, printable
from dpa1_fast.screening import journal
from dpa1_fast.screening.journal import JobError
from dpa1_fast.screening.options import OptionError

ROOT = Path(__file__).parents[1]
NOT_UTF8 = os.fsdecode(b"caf\xe9.extxyz")

LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "gbk terminal": {"PYTHONIOENCODING": "gbk", "PYTHONUTF8": "0"},
    "ascii terminal": {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "latin terminal": {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    "GBK": {"LC_ALL": "zh_CN.GBK", "PYTHONUTF8": "0"},
    "Latin-1": {"LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0"},
}
QUICK = ("C", "gbk terminal", "GBK")
"""One of each kind: no encoding at all, another one of the terminal alone, and another one of everything."""


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with locales of our own, where they can be made; without them Python falls back to C."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef"):
        for language, encoding in (("zh_CN", "GBK"), ("de_DE", "ISO-8859-1")):
            words = ["localedef", "-i", language, "-f", encoding, str(folder / f"{language}.{encoding}")]
            subprocess.run(words, capture_output=True, check=False)
    return str(folder)


@pytest.mark.parametrize("name", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in LOCALES])
def test_info_help_and_a_job_with_failures_in_any_locale(name: str, locales: str, tmp_path: Path) -> None:
    """With an Å where people write one, and names in two languages; the results are the same in all of them."""
    environment = {**LOCALES[name], "LOCPATH": locales}
    atoms = alloys(3)
    atoms[0].info["note"] = "a ≠ b, 2.5 Å"
    atoms[1] = Atoms("AlPt", [[0, 0, 0], [0, 0, 2.5]])
    write(tmp_path / "in.extxyz", atoms)
    for copy in ("ähre.extxyz", "结构.extxyz"):
        shutil.copy(tmp_path / "in.extxyz", tmp_path / copy)
    for words in (["info", MODEL], ["screen", "--help"]):
        done = run_command(*words, environment=environment)
        assert (done.returncode, done.stderr) == (0, "")
    words = ("*.extxyz", "-m", MODEL, "-o", "out", "-w", "extxyz")
    for _ in range(2):  # the second finds a complete job: what it is called does not depend on the locale
        done = run_command("screen", *words, cwd=tmp_path, environment=environment)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
    again = screen(*words, cwd=tmp_path)
    assert "nothing was left to do" in again.stdout
    table = rows(tmp_path / "out")
    assert [r["source"] for r in table[::3]] == ["in.extxyz", "ähre.extxyz", "结构.extxyz"]
    assert [r["status"] for r in table] == ["ok", "failed", "ok"] * 3
    with (tmp_path / "out" / "failures.csv").open(encoding="utf-8", newline="") as file:
        failures = list(csv.DictReader(file))
    assert [r["source"] for r in failures] == ["in.extxyz", "ähre.extxyz", "结构.extxyz"]
    assert (tmp_path / "out" / "report.html").exists()


def test_a_name_that_is_no_text_is_a_row_like_any_other(tmp_path: Path) -> None:
    source = input_file(tmp_path, 2)
    try:
        shutil.copy(source, tmp_path / NOT_UTF8)
    except OSError:
        pytest.skip("a file system that takes no such names")
    (tmp_path / "broken\udcff.xyz").write_text("3\nno\n", encoding="utf-8")
    found = screen_here(
        [tmp_path / "*.extxyz", tmp_path / "*.xyz"], MODEL, tmp_path / "out", write=("extxyz", "hdf5", "db")
    )
    table = rows(found.folder)
    assert [Path(r["source"]).name for r in table] == ["caf\\xe9.extxyz"] * 2 + ["in.extxyz"] * 2 + ["broken\\xff.xyz"]
    assert [r["status"] for r in table] == ["ok"] * 4 + ["failed"]
    with pytest.raises(OptionError, match=r"--output .*out\\xfe: this name can't be used"):
        screen_here(source, MODEL, tmp_path / "out\udcfe")
    again = screen("*.extxyz", "-m", MODEL, "-o", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "caf\\xe9" in again.stdout


def test_text_that_is_always_printable() -> None:
    for text, expected in (
        ("plain Å", "plain Å"), ("caf\udce9", "caf\\xe9"), ("\ud800", "\\ud800"), ("\udcc3\udca4", "ä"),
    ):  # fmt: skip
        assert printable(text) == expected
        printable(text).encode()
    assert name_of(Path("a/结")) == "a/结"
    assert name_of(NOT_UTF8) == "caf\\xe9.extxyz"


def test_every_file_of_text_is_opened_with_a_named_encoding() -> None:
    """In the package, the kernels and the benchmarks; what a locale means is never asked."""
    found = []
    for path in [p for folder in ("dpa1_fast", "kernels", "bench") for p in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            named = any(k.arg == "encoding" for k in node.keywords)
            text = name in ("read_text", "write_text", "fdopen") or (
                name == "open" and {"r", "w", "a", "x"} & set(words)
            )
            if text and not named:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


# --- locks --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO, errno.EPERM])
def refused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    number: int = request.param

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    return number


def test_a_lock_that_cannot_be_had_is_called_what_it_is(refused: int, tmp_path: Path) -> None:
    source = input_file(tmp_path, 3)
    if refused in (errno.EIO, errno.EPERM):
        with pytest.raises(JobError, match="could not be locked") as error:
            screen_here(source, MODEL, tmp_path / "out", report=False)
        assert os.strerror(refused) in str(error.value)
        assert "another process" not in str(error.value)
        assert not list((tmp_path / "out").iterdir())
        return
    with pytest.warns(DPA1Warning, match="file system without locks"):
        screen_here(source, MODEL, tmp_path / "out", report=False)
    assert len(rows(tmp_path / "out")) == 3


def test_without_locks_the_second_process_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "lock", lambda *_: None)
    with journal.Journal(tmp_path, {"a": 1}) as first, journal.Journal(tmp_path, {"a": 1}) as second:
        end = journal.Position(block=1, index=5)
        second.commit(end, {})
        with pytest.raises(JobError, match="written by somebody else since this job began"):
            first.commit(end, {})
        second.commit(journal.Position(block=2, index=9), {})
    with journal.Journal(tmp_path, {"a": 1}) as third:
        assert third.position.index == 9


def test_output_of_the_command_is_never_lost_for_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    from dpa1_fast.printable import forgiving_output

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    forgiving_output()
    print("2.5 eV/Å³, a … b, 结\udce9")
    sys.stdout.flush()
    assert raw.getvalue() == b"2.5 eV/A^3, a ... b, \\u7ed3\\udce9\n"
