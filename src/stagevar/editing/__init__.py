"""Pictures as input: opened, fitted to a size, masked, and read as the codes that are kept."""
