"""The loop: one pass per scale, the same for every family and every plan."""
