"""Looks for data races of Triton kernels in Triton's interpreter, which runs programs one after the other.

Barriers alone order the threads of a program. What lies between two of them is a *phase*: within it any thread may be
further than any other. ``watch.Watch`` notes which memory every phase of every program touches, and
finds what threads of one program (``phases.py``) or of several (``programs.py``) can do to one another.
"""
