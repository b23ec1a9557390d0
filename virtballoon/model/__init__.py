"""Plain data and verdicts. Imports nothing but the errors."""
