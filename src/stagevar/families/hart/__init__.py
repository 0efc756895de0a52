"""HART draws pictures of a text; it adds a continuous residual to the codes."""
