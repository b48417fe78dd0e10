"""Compiles the steps for TPUs and GPUs that this machine does not have, and counts what the programs do."""
