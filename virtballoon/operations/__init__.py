"""What a caller asks for: read, set, wait, refresh; one host or many."""
