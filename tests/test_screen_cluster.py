"""Several engines by Ray, one of them killed: the results of one process, to the byte."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from screening import MODEL, command, everything, input_file, screen

from dpa1_fast.screening import cluster
from dpa1_fast.screening.journal import NAME as JOURNAL
from dpa1_fast.screening.options import OptionError, Options

pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")

WORDS = ("in.extxyz", "--model", MODEL, "--write", "extxyz", "--no-report", "--threads", 1)
RAY = ("--ray", "local", "--workers", 2)


def workers_of(process: subprocess.Popen[str]) -> list[Any]:
    """The engines that a job started."""
    return [p for p in psutil.Process(process.pid).children(recursive=True) if "ray::Worker" in p.name()] or [
        p for p in psutil.process_iter(["cmdline"]) if any("ray::Worker" in x for x in p.info["cmdline"] or ())
    ]


@pytest.mark.slow
def test_two_engines_one_killed_in_the_middle(tmp_path: Path) -> None:
    input_file(tmp_path, 4000)
    alone = screen(*WORDS, "--output", "one", cwd=tmp_path, small_blocks=100)
    assert alone.returncode == 1, alone.stderr
    process = subprocess.Popen(
        command(*WORDS, *RAY, "--output", "two", small_blocks=100),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal = tmp_path / "two" / JOURNAL
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 4):
        time.sleep(0.01)
    engines = workers_of(process)
    assert len(engines) == 2
    assert journal.read_bytes().count(b"\n") < 40, "the job was over before an engine could be killed"
    engines[0].kill()
    said, wrong = process.communicate(timeout=180)
    assert process.returncode == 1, wrong
    assert "4,000 structures" in said
    assert everything(tmp_path / "two") == everything(tmp_path / "one")


class Ref:
    """Stands for what Ray promises."""


class FakeRay:
    """A cluster whose engines die as often as they are told to."""

    class exceptions:
        class RayActorError(Exception):
            pass

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.lost: set[int] = set()

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return references[-num_returns:], references[:-num_returns]  # the last given is done first

    def get(self, reference: Any) -> Any:
        if self.deaths > 0:
            self.deaths -= 1
            raise self.exceptions.RayActorError("gone")
        return reference.value


class Engine:
    """An engine of the fake cluster."""

    class evaluate:
        @staticmethod
        def remote(block: Any) -> Any:
            out = Ref()
            out.value = (block, 1, 1)  # type: ignore[attr-defined]
            return out


def evaluation(tmp_path: Path, deaths: int) -> Any:
    out = cluster.RayEvaluation(Options(("x",), (MODEL,), tmp_path, ray="local", workers=2), ("cpu", "cpu"))
    out._ray = FakeRay(deaths)
    out._new = Engine
    return out


class FakeBlock:
    """As much of a block as the driver looks at."""

    def __init__(self, number: int) -> None:
        self.start = type("At", (), {"block": number})()
        self.items = [type("Item", (), {"source": "a", "frame": 0})()]


@pytest.mark.parametrize("deaths", [0, 1, 3])
def test_blocks_come_in_order_however_many_engines_are_lost(deaths: int, tmp_path: Path) -> None:
    out = evaluation(tmp_path, deaths)
    blocks = [FakeBlock(7 + k) for k in range(20)]
    found = [d.block.start.block for d in out._run(iter(blocks), [Engine(), Engine()])]
    assert found == list(range(7, 27))


def test_a_block_that_kills_every_engine_is_named(tmp_path: Path) -> None:
    out = evaluation(tmp_path, 10**6)
    with pytest.raises(cluster.WorkerError, match=r"from a:0 to a:0 lost 4 engines.*safe"):
        list(out._run(iter([FakeBlock(0)]), [Engine(), Engine()]))


def test_nobody_answers(tmp_path: Path) -> None:
    input_file(tmp_path, 3)
    with pytest.raises(OptionError, match="no Ray cluster at '127.0.0.1:1'"):
        list(cluster.RayEvaluation(Options(("x",), (MODEL,), tmp_path, ray="127.0.0.1:1"), ("cpu", "cpu"))(iter([])))
