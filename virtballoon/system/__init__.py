"""Files that are always complete, lock files, and what is undone when the process ends."""
