"""Model families. One family a file; what they share is in autoencoder, blocks, bsq, vq, text and weights."""
