"""Training-free accelerators. One paper, one file; a file in this folder is found by itself."""
