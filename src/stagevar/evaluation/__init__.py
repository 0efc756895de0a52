"""Public benchmarks: pictures as their official scorers read them, and reports that carry the protocol."""
