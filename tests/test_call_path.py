"""One evaluation, from the user's call down to the first launch: short, and never back to a file it has left."""

from __future__ import annotations

import inspect
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import make_model, molecule

import dpa1_fast
from dpa1_fast import Engine
from dpa1_fast.kernels.cpu.library import NativeModel
from dpa1_fast.kernels.triton.stand_ins import standing_in

PACKAGE = Path(dpa1_fast.__file__).parent.resolve()
FRAMES, FILES = 8, 6
"""At most; DeePMD-kit takes 20 frames through 12 files for the same evaluation."""


class Launched(BaseException):
    """The first launch has been reached."""

    def __init__(self, frame: FrameType | None) -> None:
        self.path: list[tuple[Path, str]] = []
        while frame is not None:
            file = Path(frame.f_code.co_filename).resolve()
            if file.is_relative_to(PACKAGE) or file.is_relative_to(PACKAGE.parent / "kernels"):
                self.path.insert(0, (file, frame.f_code.co_name))
            frame = frame.f_back


class Kernel:
    """Stands for a Triton kernel, and says how it was reached."""

    def __getitem__(self, grid: Any) -> Any:
        raise Launched(inspect.currentframe())


def launch(*_: Any) -> None:
    raise Launched(inspect.currentframe())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_launch_is_few_frames_away_and_no_file_is_visited_twice(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(make_model(), device="cpu", backend=backend)
    atoms = molecule(5)
    engine.evaluate([atoms])  # what is prepared once a model is not on the way
    monkeypatch.setattr(NativeModel, "evaluate", launch)
    with standing_in(lambda *_: Kernel()), pytest.raises(Launched) as found:
        engine.evaluate([atoms])
    path = found.value.path
    files = [file.name for file, _ in groupby(path, key=lambda step: step[0])]
    said = " → ".join(f"{file.name}:{name}" for file, name in path)
    assert path[0][1] == "evaluate"
    assert len(path) <= FRAMES, said
    assert len(files) <= FILES, said
    assert len(files) == len(set(files)), said
