"""What Triton compiles for NVIDIA cards has no races between warps: its PTX is run on this CPU, in several orders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ptx_emulator.cases import QUICK, everything

TESTS = Path(__file__).parent
TOLERANCE = {"float32": 2e-5, "tf32": 3e-3, "float16": 3e-3, "bfloat16": 2e-2}  # of the largest of its kind
EVERYTHING = everything()


def elsewhere(module: str, given: Any = None) -> Any:
    """What a module of the emulator writes, in a process in which kernels are compiled and not interpreted."""
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    clean["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS), *filter(None, [clean.get("PYTHONPATH")])])
    command = [sys.executable, "-m", f"ptx_emulator.{module}"]
    done = subprocess.run(command, env=clean, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@cache
def known() -> dict[str, Any]:
    results: dict[str, Any] = elsewhere("known")
    return results


def test_a_race_between_warps_is_found_and_spoils_the_result() -> None:
    found = known()["reversed without barriers"]
    assert "RAW" in found["kinds"]
    assert not found["right"]


def test_with_barriers_there_is_none() -> None:
    assert known()["reversed with barriers"] == {"right": True, "kinds": [], "wgmma": 0}


def test_what_warps_load_and_do_not_use_spoils_nothing() -> None:
    """Four warps hold sixteen elements; all load them, one doubles them, the others may come too late."""
    found = known()["doubled"]
    assert found["right"]
    assert set(found["kinds"]) <= {"RAW", "WAR"}


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_products_of_tensor_cores_are_right(precision: str, architecture: str) -> None:
    found = known()[f"{precision} product on {architecture}"]
    assert found["right"]
    assert not found["kinds"]
    assert (found["wgmma"] > 0) == (architecture == "sm_90")


def assert_free_of_races(case: dict[str, Any], result: dict[str, Any]) -> None:
    """Nothing that another warp stores too early or too late is used: that reads as NaN, or differs by the order."""
    assert result["finite"]
    assert result["same_bits"]
    assert result["error"] < TOLERANCE[case["precision"]]
    assert not [x for x in result["found"] if not x[-1]]


@cache
def quick() -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = elsewhere("evaluate", list(QUICK.values()))
    return results


@pytest.mark.parametrize("name", QUICK)
def test_no_races_in_what_is_compiled(name: str) -> None:
    assert_free_of_races(QUICK[name], quick()[list(QUICK).index(name)])


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERYTHING)
def test_no_races_in_anything_that_is_compiled(name: str) -> None:
    (result,) = elsewhere("evaluate", [EVERYTHING[name]])
    assert_free_of_races(EVERYTHING[name], result)
