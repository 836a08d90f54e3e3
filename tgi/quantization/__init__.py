"""Storage formats that weights are converted to, or read from, beyond those a checkpoint is multiplied in as stored."""
