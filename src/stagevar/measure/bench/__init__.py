"""Accelerators side by side."""
