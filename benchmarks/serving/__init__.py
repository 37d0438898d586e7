"""What benchmarks.serve and benchmarks.load have in common: what is asked of which services, and how."""
