"""The engine against stored reference outputs."""
