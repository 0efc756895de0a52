"""VAR draws pictures of ImageNet classes."""
