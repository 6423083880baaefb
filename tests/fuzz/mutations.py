"""How files are spoiled: bytes anywhere, and in texts words and lines too."""

from __future__ import annotations

import re
import struct

import numpy as np

WORDS = (
    *(
        b"",
        b"nan",
        b"-inf",
        b"1e400",
        b"-0",
        b"0",
        b"-1",
        b"1e-320",
        b"99999999999999999999",
        b"4294967296",
        b"2147483648",
    ),
    *(
        b"1e308",
        b"3.0.0",
        b"0x10",
        b"1_000",
        b"X",
        b"Uuo",
        b"He",
        b"\xc3\xa5",
        b"\xff",
        b"\x00",
        b"T",
        b"null",
        b"true",
    ),
    *(
        b"[]",
        b"{}",
        b"[[[[",
        b'"',
        b"'",
        b"\\",
        b"%s",
        b"{0}",
        b"../..",
        b"#",
        b"!",
        b"\xe2\x80\xa8",
        b"None",
        b"-",
        b"*",
    ),
)
"""What may stand where a word stood."""

NUMBERS = tuple(
    struct.pack(order + form, value)
    for order in "<>"
    for form, values in {
        "i": (0, -1, 2**31 - 1, -(2**31)),
        "q": (0, -1, 2**63 - 1, 2**40),
        "d": (float("nan"), float("inf"), 1e308, 5e-324),
    }.items()
    for value in values
)
"""What may stand in the place of a number, in binary."""


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, cut out, doubled, exchanged, or the end cut off; headers and ends are preferred."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        n = len(out)
        at = int(rng.choice([rng.integers(n), rng.integers(min(n, 400)), n - 1 - rng.integers(min(n, 4000))]))
        length = int(2 ** rng.uniform(0, 8))
        kind = int(rng.integers(7))
        if kind < 2:
            out[at] = int(rng.integers(256))
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[at : at + length]
        elif kind == 4:
            other = int(rng.integers(n))
            out[at : at + length] = out[other : other + length]
        elif kind == 5:
            number = NUMBERS[rng.integers(len(NUMBERS))]
            at -= at % len(number) if rng.random() < 0.5 else 0
            out[at : at + len(number)] = number
        else:
            del out[n - min(n - 1, length) :]
        if len(out) < 2:
            break
    return bytes(out)


def mutated_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Words replaced, lines left out, doubled and exchanged; now and then bytes."""
    if rng.random() < 0.25:
        return mutated(data, rng)
    out = data
    for _ in range(int(rng.integers(1, 4))):
        kind = int(rng.integers(6))
        if kind < 3:
            words = list(re.finditer(rb'[^\s,:="\[\]{}]+', out))
            if words:
                k = int(rng.choice([rng.integers(len(words)), rng.integers(min(len(words), 25))]))
                out = out[: words[k].start()] + WORDS[rng.integers(len(WORDS))] + out[words[k].end() :]
            continue
        lines = out.split(b"\n")
        k, other = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
        if kind == 3:
            del lines[k]
        elif kind == 4:
            lines.insert(k, lines[other])
        else:
            lines[k], lines[other] = lines[other], lines[k]
        out = b"\n".join(lines)
    return out or b"\n"
