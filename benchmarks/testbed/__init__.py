"""A deployment on one machine for tests and benchmarks: real processes, network, keys and data."""
