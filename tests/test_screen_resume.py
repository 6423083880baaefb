"""Killed at any moment and started again, a screening job ends as if nothing had happened: none lost, none twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ase.io import read, write
from commands import start_command
from screening import MODEL, alloys, everything, input_file, rows, screen

from dpa1_fast import screen as screen_here
from dpa1_fast.screening import blocks, journal
from dpa1_fast.screening.journal import JobError, entries_of

ALL_FORMATS = ("extxyz", "hdf5", "db")


def lines(output: Path) -> int:
    path = output / journal.NAME
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("kills", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_at_random_moments(kills: int, tmp_path: Path) -> None:
    """SIGKILL; every kind of output at once; results to the last bit those of a job that nobody disturbed."""
    count = 600 if kills > 4 else 240
    input_file(tmp_path, count)
    words = ("in.extxyz", "--model", MODEL, "--write", ",".join(ALL_FORMATS), "--threads", 1, "--no-report")
    undisturbed = screen(*words, "--output", "one", cwd=tmp_path, small_blocks=8)
    assert undisturbed.returncode == 1, undisturbed.stderr
    rng = random.Random(3)
    output = tmp_path / "two"
    killed = 0
    for _ in range(kills):
        before, wanted = lines(output), rng.randint(0, 3)
        process = start_command("screen", *words, "--output", "two", cwd=tmp_path, small_blocks=8)
        while process.running() and lines(output) < before + wanted:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.03))
        process.send_signal(signal.SIGKILL)
        was_killed = process.wait().returncode == -signal.SIGKILL
        killed += was_killed
        for name in ("summary.parquet", "results.extxyz", "results.h5", "results.db"):
            assert not was_killed or not (output / name).exists() or lines(output) >= count // 8
    assert killed >= kills - 3, "the job was over before it could be killed often enough"
    last = screen(*words, "--output", "two", cwd=tmp_path, small_blocks=8)
    assert last.returncode == 1, last.stderr
    assert "in an earlier run" in last.stdout
    assert everything(output) == everything(tmp_path / "one")
    table = rows(output)
    assert [r["index"] for r in table] == list(range(count))
    assert [r["index"] for r in table if r["status"] == "failed"] == [3, 7]


class Died(BaseException):
    """The process is gone."""


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "STRUCTURES", 5)


def test_death_at_every_step_that_touches_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_blocks: None
) -> None:
    """Before each fsync and each rename, one after another: what the next run makes of it is always the same."""
    source = input_file(tmp_path, 12)
    options: dict[str, Any] = {"write": ALL_FORMATS, "report": False, "threads": 1}
    screen_here(source, MODEL, tmp_path / "whole", **options)
    expected = everything(tmp_path / "whole")
    real = {"fsync": os.fsync, "replace": os.replace}
    step = 0
    while True:
        output = tmp_path / "dying"
        shutil.rmtree(output, ignore_errors=True)
        left = [step]

        def counted(name: str, left: list[int] = left) -> Any:
            def call(*args: Any) -> Any:
                if left[0] == 0:
                    raise Died
                left[0] -= 1
                return real[name](*args)

            return call

        for name in real:
            monkeypatch.setattr(os, name, counted(name))
        try:
            screen_here(source, MODEL, output, **options)
            break
        except Died:
            pass
        finally:
            for name, function in real.items():
                monkeypatch.setattr(os, name, function)
        screen_here(source, MODEL, output, **options)
        assert everything(output) == expected, f"died at step {step}"
        step += 1
    assert step > 30


def test_a_torn_line_is_as_if_it_had_never_been_begun(tmp_path: Path, small_blocks: None) -> None:
    source = input_file(tmp_path, 23)
    screen_here(source, MODEL, tmp_path / "whole", write=("extxyz",), report=False)
    expected = everything(tmp_path / "whole")
    data = (tmp_path / "whole" / journal.NAME).read_bytes()
    for length in range(data.index(b"\n") + 1, len(data), 97):
        entries, good = entries_of(data[:length])
        assert data[:length].startswith(data[:good])
        assert good == length or not data[good:length].endswith(b"\n") or entries == []
    # A line that was changed does not count, nor does what follows it.
    damaged = data.replace(b'"atoms"', b'"atomz"', 1)
    assert len(entries_of(damaged)[0]) == 1
    output = tmp_path / "torn"
    monkey = [e for e in entries_of(data)[0] if "block" in e]
    assert len(monkey) == 5
    shutil.copytree(tmp_path / "whole", output)
    (output / journal.NAME).write_bytes(data[: len(data) - 20])
    screen_here(source, MODEL, output, write=("extxyz",), report=False)
    assert everything(output) == expected


def test_a_complete_job_has_nothing_left_to_do(tmp_path: Path) -> None:
    input_file(tmp_path, 20)
    words = ("in.extxyz", "--model", MODEL, "--output", "out", "--no-report")
    first = screen(*words, cwd=tmp_path)
    stamp = (tmp_path / "out" / "summary.parquet" / "part-00000.parquet").stat().st_mtime_ns
    second = screen(*words, cwd=tmp_path)
    assert (first.returncode, second.returncode) == (1, 1)
    assert "this job was complete, nothing was left to do" in second.stdout
    assert "Pt" in second.stdout
    assert (tmp_path / "out" / "summary.parquet" / "part-00000.parquet").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"precision": "float64"}, "precision: float32 then, float64 now"),
        ({"write": ("extxyz",)}, "write: [] then"),
        ({"fields": ("energy",)}, "fields: "),
        ({"relax": "positions"}, "relax: nothing then, positions now"),
        ({"backend": "reference"}, "backend: cpu then, reference now"),
    ],
)
def test_other_options_under_the_same_output_are_refused(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    source = input_file(tmp_path, 3)
    screen_here(source, MODEL, tmp_path / "out", report=False)
    with pytest.raises(JobError, match="holds another job.*choose another --output, or --overwrite") as error:
        screen_here(source, MODEL, tmp_path / "out", report=False, **change)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_changed_input_or_model_is_refused(tmp_path: Path) -> None:
    source = input_file(tmp_path, 3)
    model = tmp_path / "model.safetensors"
    from dpa1_fast.checkpoint import find

    shutil.copy(find(MODEL), model)
    screen_here(source, model, tmp_path / "out", report=False)
    size, stamp = source.stat().st_size, source.stat().st_mtime_ns
    text = source.read_text()
    source.write_text(text[:-9] + text[-9:].replace("0", "1").replace("2", "3").replace("5", "6").replace("8", "9"))
    assert source.stat().st_size == size
    os.utime(source, ns=(stamp, stamp))
    assert source.read_text() != text
    with pytest.raises(JobError, match=r"inputs: the content of .*in\.extxyz has changed"):
        screen_here(source, model, tmp_path / "out", report=False)
    source.write_text(text)
    write(tmp_path / "another.extxyz", alloys(2))
    with pytest.raises(JobError, match="another.extxyz is new"):
        screen_here([source, tmp_path / "another.extxyz"], model, tmp_path / "out", report=False)
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(bytes(data))
    with pytest.raises(JobError, match=r"models: the content of .*model\.safetensors has changed"):
        screen_here(source, model, tmp_path / "out", report=False)
    again = screen_here(source, model, tmp_path / "out", report=False, overwrite=True)
    assert again.structures == 3


def test_overwrite_deletes_what_is_ours_alone(tmp_path: Path) -> None:
    source = input_file(tmp_path, 3)
    screen_here(source, MODEL, tmp_path / "out", report=False, write=("extxyz", "db"))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    screen_here(source, MODEL, tmp_path / "out", report=False, overwrite=True)
    left = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert left == ["journal.jsonl", "notes.txt", "summary.parquet"]


def test_two_processes_do_not_write_one_job(tmp_path: Path) -> None:
    with journal.Journal(tmp_path, {"a": 1}), pytest.raises(JobError, match="another process is writing"):
        journal.Journal(tmp_path, {"a": 1})


def test_interrupted_politely(tmp_path: Path) -> None:
    """What a batch system sends when the time is up."""
    input_file(tmp_path, 1000)
    words = ("in.extxyz", "--model", MODEL, "--output", "out", "--no-report")
    process = start_command("screen", *words, cwd=tmp_path, small_blocks=8)
    while process.running() and lines(tmp_path / "out") < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    done = process.wait()
    assert done.returncode == 143
    assert done.stderr == "interrupted; what is written is safe, and the same command goes on from there\n"


def test_standard_input_goes_on_only_with_the_same_structures(tmp_path: Path, small_blocks: None) -> None:
    count = 300
    text = (source := input_file(tmp_path, count)).read_text()
    words = ("-", "--model", MODEL, "--write", "extxyz", "--no-report")
    process = start_command("screen", *words, "--output", "cut", cwd=tmp_path, small_blocks=5, stdin=source)
    while process.running() and lines(tmp_path / "cut") < 4:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL, "the job was over before it could be killed"
    given = tmp_path / "given"
    given.write_text(text.replace("Mg", "Cu", 1))
    refused = screen(*words, "--output", "cut", cwd=tmp_path, small_blocks=5, stdin=given)
    assert refused.returncode == 2
    assert "brings other structures than when the job began" in refused.stderr
    given.write_text("".join(text.splitlines(keepends=True)[:8]))
    refused = screen(*words, "--output", "cut", cwd=tmp_path, small_blocks=5, stdin=given)
    assert refused.returncode == 2
    resumed = screen(*words, "--output", "cut", cwd=tmp_path, small_blocks=5, stdin=source)
    assert resumed.returncode == 1, resumed.stderr
    assert len(rows(tmp_path / "cut")) == count


def test_results_do_not_depend_on_how_a_job_was_run(tmp_path: Path) -> None:
    """Threads, another run: the same bits."""
    source = input_file(tmp_path, 60)
    read(source, ":")
    for k, threads in enumerate((1, 2, 2)):
        screen_here(source, MODEL, tmp_path / str(k), report=False, threads=threads, write=("extxyz",))
    first = everything(tmp_path / "0")
    assert everything(tmp_path / "1") == first
    assert everything(tmp_path / "2") == first


def test_the_journal_is_lines_that_anyone_can_read(tmp_path: Path) -> None:
    source = input_file(tmp_path, 5)
    screen_here(source, MODEL, tmp_path / "out", report=False)
    text = (tmp_path / "out" / journal.NAME).read_text()
    kinds = [next(iter(json.loads(line.split(" ", 1)[1]))) for line in text.splitlines()]
    assert kinds == ["job", "block", "ended"]
