"""Plans found by evolution under a budget of operations."""
