"""A soak test: kills runs at random moments and compares their results with those of undisturbed runs."""
