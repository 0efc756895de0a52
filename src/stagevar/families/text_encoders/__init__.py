"""Text encoders of the published families."""
