"""Benchmarks: each runs us and a peer in turns and prints the ratio."""
