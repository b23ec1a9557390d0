"""Tests that need no guest and no hypervisor."""
