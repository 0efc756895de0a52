"""What every scale of a model contributes."""
