"""Neighbour lists built where the model is evaluated, by torch operations: ``DeviceSearch`` in ``search.py``."""
