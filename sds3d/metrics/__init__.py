"""What `evaluate` and the benchmarks compute of an asset."""
