"""Mutated model files: each is read, or refused by one error of ours, within seconds.

pytest tests/fuzz --fuzz-examples 20000      (make fuzz)
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, make_model
from mutations import mutated

from dpa1_fast.checkpoint import read_model, write_model
from dpa1_fast.errors import DPA1Error

SECONDS = 10.0
"""No file of some kilobytes may take longer."""

FORMATS = (".dp", ".yaml", ".safetensors", ".pt", ".pth")


def sound(suffix: str, folder: Path) -> bytes:
    """A model that is as it should be, in one of the formats."""
    if suffix in (".pt", ".pth"):
        return min(DATA.rglob(f"*{suffix}"), key=lambda p: p.stat().st_size).read_bytes()
    path = folder / f"sound{suffix}"
    write_model(make_model(neuron=(2, 4), axis_neuron=2, attn=4, attn_layer=1), path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_mutated_model_is_read_or_refused(suffix: str, fuzz_examples: int, fuzz_first: int, tmp_path: Path) -> None:
    data = sound(suffix, tmp_path)
    path = tmp_path / f"odd{suffix}"
    refused = 0
    for seed in range(fuzz_first, fuzz_first + max(1, fuzz_examples // len(FORMATS))):
        path.write_bytes(mutated(data, np.random.default_rng(seed)))
        began = time.process_time()
        try:
            read_model(path)
        except DPA1Error as error:
            refused += 1
            if "\n" in str(error):
                pytest.fail(f"seed {seed}: more than one line")
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
        assert time.process_time() - began < SECONDS, f"seed {seed}: {time.process_time() - began:.1f} s"
    assert refused, "some of them are to be refused"
