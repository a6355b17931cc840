"""Networks; they know tensors and levels, nothing of processes."""
