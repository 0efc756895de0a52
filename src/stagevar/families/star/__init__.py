"""STAR draws pictures of a text."""
