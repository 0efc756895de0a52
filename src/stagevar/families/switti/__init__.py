"""Switti: text to pictures, with and without history."""
