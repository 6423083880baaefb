"""Kernels compiled before they are launched, all at a time, and launch configurations that look at what came out.

``jobs.py`` says what an evaluator would launch, ``pool.py`` has it compiled by ``worker.py`` in processes of their own,
``outcomes.py`` keeps what came out, and ``choice.py`` goes on to the next configuration where that does not do.
"""
