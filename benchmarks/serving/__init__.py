"""The parts of `benchmarks/gateway.py`: what is compared, how it is measured, what memory it takes."""
