"""The electron configurations are those that DeePMD-kit's models were trained with."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from dpa1_fast.electrons import SHELLS, SYMBOLS, econf_table, econf_vector, occupations

# SHA-256 over the signs (int8) of DeePMD-kit 3.2.0's table of all 118 elements, in order of Z.
DEEPMD_TABLE = "306fe19a29d49dbedebe1c8ee400eb89bd5ccbae623894269c3f62725fecbbc0"


def test_every_element_has_its_electrons() -> None:
    assert len(SYMBOLS) == 118
    for z, symbol in enumerate(SYMBOLS, start=1):
        assert sum(occupations(symbol).values()) == z
    assert occupations("Cr") == {
        **dict.fromkeys(SHELLS, 0),
        "1s": 2,
        "2s": 2,
        "2p": 6,
        "3s": 2,
        "3p": 6,
        "3d": 5,
        "4s": 1,
    }


def test_the_table_is_deepmds() -> None:
    table = econf_table(tuple(SYMBOLS))
    assert table.shape == (118, 118)
    assert np.allclose(np.abs(table), 118**-0.5)
    assert hashlib.sha256(np.sign(table).astype(np.int8).tobytes()).hexdigest() == DEEPMD_TABLE


def test_what_is_no_element() -> None:
    with pytest.raises(KeyError):
        econf_vector("Xx")
