"""What a model supplies to the loop."""
