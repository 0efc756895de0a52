"""Model families. One family a file; what they share is in base, blocks, bsq, text and weights."""
