"""STAR: text to pictures."""
