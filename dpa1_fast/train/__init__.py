"""Training: options → data → statistics → batches → loop, with checkpoints that are resumed bit for bit."""
