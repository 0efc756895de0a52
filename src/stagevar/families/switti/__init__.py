"""Switti draws pictures of a text, with or without attention to earlier scales."""
