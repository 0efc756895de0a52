"""What runs at each scale, as plain data."""
