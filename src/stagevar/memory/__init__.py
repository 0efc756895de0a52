"""Memory of a run: what it takes before anything is loaded, and how it is kept within a limit."""
