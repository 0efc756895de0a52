"""VAR: classes of ImageNet to pictures."""
