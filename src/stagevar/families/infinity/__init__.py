"""Infinity draws pictures of a text; its codes are bits."""
