"""The engine: what a model supplies, what a plan says, and the loop that runs both."""
