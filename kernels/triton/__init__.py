"""The Triton backend: batches cut into chunks, launches, and what kernels read."""
