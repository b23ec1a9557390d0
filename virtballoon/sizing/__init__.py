"""Right-sizing of domains from a recorded history of their memory use."""
