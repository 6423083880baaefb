"""The kit for a card's first minutes: steps end at their limits, what was said stays said, and a page is made of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.speed.first_light import BARS, findings, lines, machine, page, place, run, schedule, speed, variants
from bench.speed.first_light.__main__ import kit_folder, lay_cache, unpack
from bench.speed.first_light.digest import digest_of
from bench.speed.first_light.schedule import Step
from dpa1_fast.kernels.triton.launch_candidates import candidates_for
from dpa1_fast.kernels.triton.launch_configurations import SHIPPED

ROOT = Path(__file__).parents[1]
SCRIPT = """
import os, sys, time
from pathlib import Path
from bench.speed.first_light import lines, schedule
out, seconds = Path(sys.argv[1]), float(sys.argv[2])
log = lines.Log(out, "kit")

def fact(k):
    time.sleep(0.1)
    log.say(f"step{k}", fact=k)

steps = [schedule.Step(f"step{k}", "a fact", 5.0, lambda k=k: fact(k)) for k in range(12)]
todo = schedule.todo(steps, lines.read(out), "kit")
schedule.FEWEST_SECONDS = 0.5
left = schedule.run(todo, log, seconds, time.monotonic())
sys.exit(bool(left))
"""


def started(out: Path, seconds: float = 60.0) -> subprocess.Popen[bytes]:
    """Twelve short steps in a process of their own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out), str(seconds)], env=environment, cwd=out.parent,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def ends(log: lines.Log) -> dict[str, str]:
    return {r["step"]: r["end"] for r in lines.read(log.path.parent) if "end" in r}


# --- steps and their limits ---------------------------------------------------------------------------------------


def test_a_hang_a_crash_and_an_error_cost_one_step_each(tmp_path: Path) -> None:
    log = lines.Log(tmp_path, "kit")

    def wrong() -> None:
        raise ValueError("what is wrong")

    steps = [
        Step("hangs", "", 0.5, lambda: time.sleep(60)),
        Step("crashes", "", 10.0, lambda: os.kill(os.getpid(), signal.SIGSEGV)),
        Step("raises", "", 10.0, wrong),
        Step("exits", "", 10.0, lambda: sys.exit(3)),
        Step("works", "", 10.0, lambda: log.say("works", fact=1)),
    ]
    began = time.monotonic()
    left = schedule.run(steps, log, 60.0, began)
    assert time.monotonic() - began < 10
    assert left == ["hangs", "crashes", "raises", "exits"]
    assert ends(log) == {
        "hangs": "too long", "crashes": "crashed", "raises": "failed", "exits": "failed", "works": "done"
    }  # fmt: skip
    said = lines.read(tmp_path)
    assert next(r for r in said if r["step"] == "crashes" and "end" in r)["signal"] == "SIGSEGV"
    assert next(r for r in said if r["step"] == "raises" and "error" in r)["error"] == "ValueError: what is wrong"
    assert [r["fact"] for r in said if "fact" in r] == [1]


def test_what_a_step_started_ends_with_it(tmp_path: Path) -> None:
    log = lines.Log(tmp_path, "kit")
    child = tmp_path / "child"

    def starts() -> None:
        process = subprocess.Popen(["sleep", "60"])
        child.write_text(str(process.pid))
        time.sleep(60)

    schedule.run([Step("starts", "", 1.0, starts)], log, 60.0, time.monotonic())
    pid = int(child.read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break  # ended; whoever inherited it has not asked yet
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_the_whole_ends_in_time_and_the_rest_is_named(tmp_path: Path) -> None:
    log = lines.Log(tmp_path, "kit")
    steps = [Step(f"s{k}", "", 60.0, lambda: time.sleep(30)) for k in range(3)]
    began = time.monotonic()
    left = schedule.run(steps, log, schedule.FEWEST_SECONDS + schedule.TO_END + 1.0, began)
    assert time.monotonic() - began < schedule.FEWEST_SECONDS + schedule.TO_END + 3.0
    assert left == ["s0", "s1", "s2"]
    assert ends(log) == {"s0": "no time left"}


def test_goes_on_with_what_is_missing_and_then_with_what_failed() -> None:
    steps = [Step(x, "", 1.0, lambda: None) for x in "abcdefg"]

    def row(step: str, kit: str = "kit", **facts: object) -> dict[str, object]:
        return {"step": step, "kit": kit, **facts}

    said = [
        row("a", begin=""), row("a", end="done"),
        row("b", begin=""), row("b", end="crashed"),
        row("c", begin=""), row("c", end="no time left"),
        row("d", begin=""),  # killed with all of it
        row("e", begin=""), row("e", begin=""),  # twice: it may be what kills the machine
        row("f", "another kit", begin=""), row("f", "another kit", end="done"),
    ]  # fmt: skip
    assert [s.name for s in schedule.todo(steps, said, "kit")] == ["c", "d", "f", "g", "b", "e"]
    again = [*said, row("b", begin=""), row("b", end="done")]
    assert [s.name for s in schedule.todo(steps, again, "kit")] == ["c", "d", "f", "g", "e"]


def test_the_most_valuable_steps_come_first_and_fit(tmp_path: Path) -> None:
    names = [s.name for s in run.steps(place.Place(tmp_path, tmp_path, tmp_path, "cuda:0"), lines.Log(tmp_path))]
    assert len(set(names)) == len(names)
    order = (
        "facts", "ceilings", "evaluations", "sizes", "by_kernel", "repeats", "kernels", "graph", "ncu", "source",
        "variants", "peer", "largest", "eager", "whole", "deepmd", "scheduler", "memory", "sanitize", "tune",
    )  # fmt: skip
    groups = list(dict.fromkeys(n.split("-")[0] for n in names))
    assert groups == list(order)
    for group in ("evaluations", "kernels", "repeats", "sizes"):
        assert [n for n in names if n.startswith(f"{group}-")] == [f"{group}-{p}" for p in BARS]


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_variants_try_every_candidate_of_tune(precision: str) -> None:
    every = [v.configurations or SHIPPED[precision] for v in variants.variants(precision)]
    for part, by_kernel in candidates_for(precision).items():
        for kernel, candidates in by_kernel.items():
            assert {getattr(getattr(x, part), kernel) for x in every} == set(candidates)
    run = SimpleNamespace(configurations=None)
    with variants.applied(run, variants.variants(precision)[2]):
        assert run.configurations == every[2]
    assert run.configurations is None


# --- what was said stays said -------------------------------------------------------------------------------------


def test_lines_survive_a_kill_at_any_moment_and_nothing_is_done_twice(tmp_path: Path) -> None:
    out, dice = tmp_path / "out", random.Random(4)
    known: list[dict[str, object]] = []
    for _ in range(4):
        process = started(out)
        time.sleep(dice.uniform(1.5, 2.2))  # importing takes most of a second
        process.kill()
        process.wait()
        now = lines.read(out)
        assert now[: len(known)] == known  # nothing that was said is lost
        known = now
        done = {r["step"] for r in now if r.get("end") == "done"}
        assert done <= {r["step"] for r in now if "fact" in r}
        assert page.page(findings.gather(now), None).count("<h1>") == 1
    assert started(out).wait() == 0
    facts = [r["fact"] for r in lines.read(out) if "fact" in r]
    assert sorted(set(facts)) == list(range(12))
    finished = [r["step"] for r in lines.read(out) if r.get("end") == "done"]
    assert len(finished) == len(set(finished)) == 12


def test_a_step_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started(out)
    deadline = time.monotonic() + 30
    while len(lines.read(out)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(0.3)
    before = len(lines.read(out))
    time.sleep(0.5)
    assert len(lines.read(out)) == before


def test_a_graph_is_right_by_value() -> None:
    forces = torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    moved = SimpleNamespace(forces=forces + 1e-6)
    assert speed.reordered(SimpleNamespace(forces=forces), SimpleNamespace(forces=forces)) == 0.0
    assert 0 < speed.reordered(moved, SimpleNamespace(forces=forces)) < 1e-6
    assert not speed.reordered(SimpleNamespace(forces=forces * float("nan")), moved) <= 1e300


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    log = lines.Log(tmp_path, "kit")
    log.say("a", fact=np.float32(1.5), tensor=torch.tensor(2), where=tmp_path)
    with log.path.open("ab") as file:
        file.write(b'{"step": "b", "fa')
    lines.Log(tmp_path, "kit").say("c", fact=3)
    assert [(r["step"], r["fact"]) for r in lines.read(tmp_path)] == [("a", 1.5), ("c", 3)]


# --- the page -----------------------------------------------------------------------------------------------------

FACTS = [
    {"step": "facts", "device": "NO REAL CARD <made up>", "python": "3.12.3", "versions": {"torch": "2.11.0"}},
    {"step": "evaluations-tf32", "case": "water192", "precision": "tf32", "force": 1e-4, "limit": 3e-3, "right": True},
    {"step": "evaluations-float64", "case": "water192", "precision": "float64", "force": 1e-3, "limit": 1e-10,
     "right": False},
    {"step": "sizes-tf32", "case": "water192", "precision": "tf32", "atoms": 192, "structures": 1, "us_per_atom": 7.125,
     "ns_per_neighbor": 79.0, "ms": 1.4, "host_ms": 1.5, "peak_bytes": 2**25, "right": True},
    {"step": "sizes-float64", "case": "water192", "precision": "float64", "atoms": 192, "structures": 1,
     "us_per_atom": 98.765, "right": False},
    {"step": "by_kernel-tf32", "kernel": "_gated_attention_bwd_kernel", "precision": "tf32", "us_per_atom": 0.5,
     "model_us_per_atom": 0.25, "limit": "tensor", "launches": 1},
    {"step": "peer-attention", "model": "attention", "form": "pth", "settings": {}, "case": "water1536",
     "us_per_atom": 90.0, "ours_us_per_atom": 4.5},
]  # fmt: skip


def rows(facts: list[dict[str, object]]) -> list[dict[str, object]]:
    """Lines of a run that said these facts."""
    out = []
    for fact in facts:
        out += [{"kit": "k", "step": fact["step"], "begin": ""}, {"kit": "k", **fact}]
        out.append({"kit": "k", "step": fact["step"], "end": "done", "seconds": 1.0})
    return out


def test_a_page_of_whatever_is_there(tmp_path: Path) -> None:
    every = rows(FACTS)
    for count in range(1, len(every) + 1):
        text = page.page(findings.gather(every[:count]), None)
        assert text.startswith("<!doctype html>")
        assert "http" not in text  # nothing is fetched
    assert "NO REAL CARD &lt;made up&gt;" in text
    assert "7.125" in text
    assert "98.77" not in text.split("What is not right")[0]  # forces that are wrong have no speed
    assert "20</td>" in text  # times faster than DeePMD-kit
    assert ">2</td>" in text  # measured over modelled
    assert "1 of 2 right" in text


def test_page_and_picture_are_written_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / lines.NAME).write_text("\n".join(json.dumps(r) for r in rows(FACTS)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench.speed.first_light.page", str(tmp_path)]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "first_light.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in (tmp_path / "first_light.html").read_text()
    empty = subprocess.run([*command[:-1], str(tmp_path / "none")], env=environment, capture_output=True, text=True)
    assert empty.returncode == 2
    assert len(empty.stderr.splitlines()) == 1


def test_the_last_run_of_the_last_code_counts() -> None:
    said = rows([{"step": "s", "x": 1}]) + [
        {**r, "kit": "new"} for r in rows([{"step": "s", "x": 2}, {"step": "t", "x": 3}])
    ]
    found = findings.gather(said)
    assert found.value("s", "x") == 2
    assert found.kit == "new"
    cut = findings.gather([*said, {"kit": "new", "step": "u", "begin": ""}])
    assert cut.ends == {"s": "done", "t": "done", "u": "not ended"}


# --- what is judged -----------------------------------------------------------------------------------------------


def test_forces_are_judged_by_their_rms_and_no_surer_than_the_judge() -> None:
    judge = {"forces": np.array([[3.0, 0, 0], [0, 4.0, 0]]), "energies": np.zeros(2), "virials": np.eye(3)[None],
             "spread": np.array(0.0)}  # fmt: skip
    found = [torch.zeros(2).double(), None, torch.tensor(judge["forces"]), torch.eye(3).double()[None]]
    assert place.verdict(found, judge, 1e-10)["right"]
    found[2] = found[2] + 1e-3
    off = place.verdict(found, judge, 1e-10)
    assert off["force"] == pytest.approx(1e-3 / np.sqrt(25 / 6))
    assert not off["right"]
    assert place.verdict(found, {**judge, "spread": np.array(1e-3)}, 1e-10)["right"]
    found[2][0, 0] = float("nan")
    assert not place.verdict(found, judge, 1.0)["right"]
    assert place.verdict(found, None, 1.0) == {}


def test_ceilings_without_a_card(tmp_path: Path) -> None:
    machine.ceilings(place.Place(tmp_path, tmp_path, tmp_path, "cpu"), lines.Log(tmp_path))
    said = lines.read(tmp_path)
    assert {r["precision"] for r in said if "precision" in r} == set(BARS)
    assert all(r["tflops"] > 0 for r in said if "tflops" in r)


# --- laying the kit out -------------------------------------------------------------------------------------------


def test_wheels_and_cache_are_laid_out_where_the_machine_has_room(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "x-1-py3-none-any.whl", "w") as archive:
        archive.writestr("x/__init__.py", "y = 1")
        archive.writestr("x-1.dist-info/METADATA", "Name: x\nVersion: 1\n")
        archive.writestr("x-1.data/purelib/z.py", "")
        archive.writestr("x-1.data/scripts/x", "")
        archive.writestr("x-1.data/data/lib/y.so", "")
    unpack(wheels, tmp_path / "site")
    inside = {str(p.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("*") if p.is_file()}
    assert inside == {"x/__init__.py", "x-1.dist-info/METADATA", "z.py", "x-1.data/data/lib/y.so"}
    import tarfile

    made = tmp_path / "made" / "HASH"
    made.mkdir(parents=True)
    (made / "k.cubin").write_bytes(b"cubin")
    (made / "__grp__k.json").write_text(json.dumps({"child_paths": {"k.cubin": "/elsewhere/HASH/k.cubin"}}))
    with tarfile.open(tmp_path / "cache.tar.xz", "w:xz") as files:
        files.add(tmp_path / "made", ".")
    lay_cache(tmp_path / "cache.tar.xz", tmp_path / "cache")
    told = json.loads((tmp_path / "cache" / "HASH" / "__grp__k.json").read_text())
    assert Path(told["child_paths"]["k.cubin"]).read_bytes() == b"cubin"


def test_no_kit_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make gpu-kit"):
        kit_folder(str(tmp_path))


def test_the_digest_is_of_what_runs(tmp_path: Path) -> None:
    for name in ("dpa1_fast/a.py", "kernels/b.py", "docs/c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    before = digest_of(tmp_path)
    (tmp_path / "docs/c.md").write_text("2")
    assert digest_of(tmp_path) == before
    (tmp_path / "kernels/b.py").write_text("2")
    assert digest_of(tmp_path) != before
