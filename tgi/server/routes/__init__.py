"""One file a family of endpoints: what comes in, what goes out, and nothing else."""
