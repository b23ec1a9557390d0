"""Prometheus metrics, written once or served."""
