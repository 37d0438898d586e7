"""What things cost, beside what one would use instead. Each file says how it is run."""
