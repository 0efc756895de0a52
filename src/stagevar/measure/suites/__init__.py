"""What is asked of a model, and how its pictures are read."""
