"""The monitoring plugin: thresholds, judgement, output."""
