"""What a running job says of itself."""

from __future__ import annotations

import io
import math

import pytest

from dpa1_fast.printable import clock
from dpa1_fast.screening import progress
from dpa1_fast.screening.job import Progress
from dpa1_fast.screening.progress import Watch


def test_words() -> None:
    watch = Watch(io.StringIO())
    assert watch.words(Progress(structures=5000, atoms=100_000), 10.0) == "5,000 structures, 500/s, 10,000 atoms/s"
    first = watch.words(Progress(structures=5000, atoms=100_000, share=0.1, failed=3), 10.0)
    assert first == "10%, 5,000 structures, 500/s, 10,000 atoms/s, 3 failed"
    # Since the first time that it was told: a fifth of the input in 20 seconds, so 140 for the rest.
    second = watch.words(Progress(before=1000, structures=14_000, atoms=1, share=0.3), 30.0)
    assert second == "30%, 15,000 structures, 467/s, 0 atoms/s, 1 min 10 s left"


def test_a_resumed_job_does_not_count_what_an_earlier_run_did() -> None:
    watch = Watch(io.StringIO())
    said = watch.words(Progress(before=900_000, structures=1000, atoms=0, share=0.9), 2.0)
    assert said.startswith("90%, 901,000 structures, 500/s")


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.4, "5 s"), (65, "1 min 05 s"), (3600, "1 h 00 min"), (100_000, "27 h 46 min")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_without_a_terminal_there_is_a_plain_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Watch(out) as watch:
        for second in range(0, 200, 5):
            now[0] = float(second)
            watch(Progress(structures=second * 100, atoms=second * 2000, share=second / 200))
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert all("structures" in line and "atoms/s" in line and "left" in line for line in lines)
    assert "\x1b" not in out.getvalue()


def test_nothing_is_known_of_a_pipe() -> None:
    watch = Watch(io.StringIO())
    assert "%" not in watch.words(Progress(structures=1, atoms=2, share=math.nan), 1.0)
