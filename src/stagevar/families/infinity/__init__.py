"""Infinity: text to pictures, in bits."""
