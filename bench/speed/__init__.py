"""Speed, ours and that of others, on CPUs and GPUs."""
