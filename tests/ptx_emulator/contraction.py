"""What NVIDIA's assembler may make of PTX: one multiply-add of a float64 product and the sum that it goes into.

It may do so wherever neither names how it is rounded (``mul.f64``, ``add.f64``); here it does wherever it may.
"""

from __future__ import annotations

import re
from collections import Counter

LINE = re.compile(r"^\s*(mul|add|sub)\.f64\s+(%rd\d+), (\S+), (\S+);")
REGISTER = re.compile(r"%rd\d+")
DECLARED = re.compile(r"(\.reg \.b64\s+%rd)<(\d+)>")


def contracted(ptx: str) -> str:
    """The same code with all such pairs as one; a product that goes nowhere else stays, unused."""
    lines = ptx.splitlines()
    seen = Counter(register for line in lines for register in REGISTER.findall(line))
    found = [LINE.match(line) for line in lines]
    # Set once and used once.
    products = {m[2]: (m[3], m[4]) for m in found if m and m[1] == "mul" and seen[m[2]] == 2}
    declared = DECLARED.search(ptx)
    fresh = int(declared[2]) if declared else 0
    for i, m in enumerate(found):
        if m is None or m[1] == "mul":
            continue
        minus, to, x, y = m[1] == "sub", m[2], m[3], m[4]
        if x in products:
            a, b = products[x]
            turned, c = (y, f"%rd{fresh}") if minus else (None, y)
        elif y in products:
            a, b = products[y]
            turned, a, c = (a, f"%rd{fresh}", x) if minus else (None, a, x)
        else:
            continue
        sign = "" if turned is None else f"neg.f64 %rd{fresh}, {turned};\n"
        lines[i] = f"{sign}fma.rn.f64 {to}, {a}, {b}, {c};"
        fresh += turned is not None
    return DECLARED.sub(rf"\g<1><{fresh}>", "\n".join(lines))
