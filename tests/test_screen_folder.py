"""What belongs to the user stays: a job deletes and replaces its own files, and reads none of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from screening import MODEL, alloys, everything, input_file, rows, screen

from dpa1_fast import screen as screen_here
from dpa1_fast.screening import blocks, journal
from dpa1_fast.screening.folder import GROWING, RESULTS, SUMMARY
from dpa1_fast.screening.journal import JobError, line_of
from dpa1_fast.screening.options import OptionError
from dpa1_fast.screening.sinks.base import ChangedOutputError
from dpa1_fast.sources import SourceError

ALL = ("extxyz", "hdf5", "db")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return input_file(tmp_path, 6)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- overwrite ----------------------------------------------------------------------------------------------------

MINE = {
    "results.txt": "notes", "results.mine/precious": "x", "results.db.backup": "b", "summary.parquet.old/a": "y",
    "report.html.bak": "r", "failures.csv.partial.txt": "f", "journal.jsonl.1": "j", "summary.csv": "s",
}  # fmt: skip


def test_overwrite_leaves_what_only_looks_like_an_output(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, text in MINE.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    screen_here(source, MODEL, out, write=ALL)
    screen_here(source, MODEL, out, write=("hdf5",), report=False, overwrite=True)
    left = files_in(out)
    for name, text in MINE.items():
        assert left.pop(name) == text.encode()
    assert sorted(left) == ["journal.jsonl", "results.h5", "summary.parquet/part-00000.parquet"]


def test_a_file_of_the_user_under_an_outputs_name_is_never_replaced(source: Path, tmp_path: Path) -> None:
    """Neither by a job that begins there, nor by one that goes on with other outputs, with or without --overwrite."""
    for name, options in (
        ("results.db", {"write": ("db",)}), ("report.html", {}), ("summary.parquet", {}), ("failures.csv", {}),
        ("results.extxyz.partial", {"write": ("extxyz",)}), ("results.h5.whole", {"write": ("hdf5",)}),
    ):  # fmt: skip
        for overwrite in (False, True):
            out = tmp_path / f"{name}-{overwrite}"
            out.mkdir()
            (out / name).write_text("mine", encoding="utf-8")
            with pytest.raises(JobError, match="is there already, and no job of this folder wrote it"):
                screen_here(source, MODEL, out, overwrite=overwrite, **options)
            assert files_in(out) == {name: b"mine"}, "and no journal is left that would claim it"
    out = tmp_path / "later"
    screen_here(source, MODEL, out, report=False)
    (out / "report.html").write_text("mine", encoding="utf-8")
    (out / "results.db").write_text("mine", encoding="utf-8")
    with pytest.raises(JobError, match=r"report\.html is there already"):
        screen_here(source, MODEL, out)
    with pytest.raises(JobError, match=r"results\.db is there already"):
        screen_here(source, MODEL, out, report=False, write=("db",), overwrite=True)
    assert (out / "report.html").read_text(encoding="utf-8") == "mine"
    assert (out / "results.db").read_text(encoding="utf-8") == "mine"


def test_what_the_user_put_into_an_outputs_folder_is_named_before_anything_is_deleted(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    screen_here(source, MODEL, out, write=ALL, report=False)
    (out / "summary.parquet" / "notes.txt").write_text("mine", encoding="utf-8")
    before = files_in(out)
    with pytest.raises(JobError, match=r"summary\.parquet/notes\.txt is none of this job's files"):
        screen_here(source, MODEL, out, overwrite=True)
    assert files_in(out) == before


def test_of_a_link_only_the_link_is_deleted(source: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    screen_here(source, MODEL, out, write=ALL, report=False)
    elsewhere.mkdir()
    for name in ("summary.parquet", "results.extxyz", "results.db"):
        shutil.move(out / name, elsewhere / name)
        (out / name).symlink_to(elsewhere / name)
    kept = files_in(elsewhere)
    screen_here(source, MODEL, out, write=ALL, report=False)
    assert files_in(elsewhere) == kept
    screen_here(source, MODEL, out, write=ALL, report=False, overwrite=True)
    assert files_in(elsewhere) == kept
    assert not (out / "summary.parquet").is_symlink()
    assert len(rows(out)) == 6
    folder = tmp_path / "link"
    folder.symlink_to(out)
    screen_here(source, MODEL, folder, write=ALL, report=False, overwrite=True)
    assert folder.is_symlink()
    assert len(rows(out)) == 6


def test_a_dead_overwrite_leaves_a_job_that_has_done_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever deletion it died: the old command does the old job, --overwrite the new one."""
    screen_here(source, MODEL, tmp_path / "whole", write=ALL, report=False)
    expected = everything(tmp_path / "whole")
    journal_remove = journal.remove
    for deaths in range(5):
        out = tmp_path / str(deaths)
        screen_here(source, MODEL, out, write=ALL, report=False)
        left = [deaths]

        def dying(path: Path, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            journal_remove(path)

        with monkeypatch.context() as patch:
            patch.setattr(journal, "remove", dying)
            if deaths < 4:
                with pytest.raises(KeyboardInterrupt):
                    screen_here(source, MODEL, out, report=False, overwrite=True)
            else:
                screen_here(source, MODEL, out, report=False, overwrite=True)
                continue
        screen_here(source, MODEL, out, write=ALL, report=False)
        assert everything(out) == expected


def test_overwrite_waits_for_the_process_that_writes(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    screen_here(source, MODEL, out, report=False)
    before = files_in(out)
    entries, _ = journal.entries_of(before["journal.jsonl"])
    with journal.Journal(out, entries[0]["job"]), pytest.raises(JobError, match="another process is writing"):
        screen_here(source, MODEL, out, report=False, overwrite=True)
    assert files_in(out) == before


# --- the journal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b'{"my": "lines"}\n', b"0123abcd {not a journal}\n", b"\x00\xff", line_of({"block": 1})]
)
def test_a_file_that_is_no_journal_is_not_touched(content: bytes, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "journal.jsonl").write_bytes(content)
    for overwrite in (False, True):
        with pytest.raises(JobError, match=r"journal\.jsonl does not begin as the journal of a job does"):
            screen_here(source, MODEL, tmp_path / "out", overwrite=overwrite)
        assert files_in(tmp_path / "out") == {"journal.jsonl": content}


@pytest.mark.parametrize("length", [0, 1, 8, 9, 10, 40])
def test_a_first_line_that_was_torn_is_begun_again(length: int, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "journal.jsonl").write_bytes(line_of({"job": {"precision": "float32"}})[:length])
    assert screen_here(source, MODEL, tmp_path / "out", report=False).structures == 6


def test_an_output_that_is_not_what_the_journal_says_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is gone, a file that is shorter, a database without its rows: no summary with holes in it."""
    monkeypatch.setattr(blocks, "STRUCTURES", 4)
    source = input_file(tmp_path, 16)
    screen_here(source, MODEL, tmp_path / "whole", write=ALL, report=False)

    def interrupted(out: Path) -> None:
        real = journal.Journal.commit

        def commit(self: journal.Journal, *args: object, **told: object) -> None:
            if len(self.blocks) == 2:
                raise KeyboardInterrupt
            real(self, *args, **told)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(journal.Journal, "commit", commit)
            with pytest.raises(KeyboardInterrupt):
                screen_here(source, MODEL, out, write=ALL, report=False)

    def harm(path: Path) -> None:
        if path.suffix == ".parquet" or path.suffix == ".h5" or path.name == "results.db.partial":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:50])

    for name in ("summary.parquet.partial/part-0000001.parquet", "results.h5.partial/part-0000000.h5",
                 "results.extxyz.partial", "results.db.partial"):  # fmt: skip
        out = tmp_path / name.replace("/", "-")
        interrupted(out)
        harm(out / name)
        with pytest.raises(ChangedOutputError, match="the job cannot go on from there"):
            screen_here(source, MODEL, out, write=ALL, report=False)
        screen_here(source, MODEL, out, write=ALL, report=False, overwrite=True)
        assert everything(out) == everything(tmp_path / "whole")


# --- inputs in the folder of the outputs --------------------------------------------------------------------------


def test_an_input_in_the_folder_of_the_results_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    screen_here(source, MODEL, out, write=("extxyz",), report=False)
    before = files_in(out)
    (tmp_path / "link.extxyz").symlink_to(out / "results.extxyz")
    for given in (out / "results.extxyz", out / ".." / "out" / "results.extxyz", out, tmp_path / "link.extxyz"):
        for overwrite in (False, True):
            with pytest.raises(OptionError, match="lies in the folder for the results"):
                screen_here(given, MODEL, out, write=("extxyz",), report=False, overwrite=overwrite)
            assert files_in(out) == before
    done = screen("in.extxyz", "--model", MODEL, "--output", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: in.extxyz lies in the folder for the results, ., where" in done.stderr


def test_a_pattern_does_not_find_what_the_job_itself_writes(source: Path, tmp_path: Path) -> None:
    """The same command, after its own results have come to match its pattern, has nothing left to do."""
    words = ("**/*.extxyz", "--model", MODEL, "--output", "deep/out", "--write", "extxyz", "--no-report")
    first = screen(*words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    second = screen(*words, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "this job was complete, nothing was left to do" in second.stdout
    with pytest.raises(SourceError, match="all that was found lies in the folder for the results"):
        screen_here(f"{tmp_path}/deep/out/*.extxyz", MODEL, tmp_path / "deep" / "out", write=("extxyz",))


def test_folders_with_names_that_begin_alike_are_others(tmp_path: Path) -> None:
    (tmp_path / "out.inputs").mkdir()
    source = input_file(tmp_path / "out.inputs", 3)
    assert screen_here(source, MODEL, tmp_path / "out", report=False).structures == len(alloys(3))


def test_the_book_says_what_stands_there_while_a_job_runs() -> None:
    text = (Path(__file__).parents[1] / "docs" / "screening.md").read_text(encoding="utf-8")
    for name in (SUMMARY, *RESULTS.values()):
        assert f"`{name}{GROWING[0]}" in text
