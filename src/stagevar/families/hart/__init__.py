"""HART: text to pictures, with a continuous residual."""
