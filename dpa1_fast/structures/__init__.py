"""Structures as every caller shares them: checked input, neighbour lists, batches."""
