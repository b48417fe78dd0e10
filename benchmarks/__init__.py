"""Benchmarks, to be run from the checkout. Most time several variants in alternation; each prints one JSON object."""
