"""What every test runs under: one thread, since the tensors here are small and workers are many."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
