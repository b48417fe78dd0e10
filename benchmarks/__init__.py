"""Benchmarks: each compares sides in one process, alternating, and prints one JSON object. Run from the checkout."""
