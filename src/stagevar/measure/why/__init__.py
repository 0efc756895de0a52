"""One picture: what ran, what it cost, and what that changed against the plain run."""
