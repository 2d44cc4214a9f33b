"""What pyray costs, beside what one would use without it: ``python -m benchmarks --help``."""
