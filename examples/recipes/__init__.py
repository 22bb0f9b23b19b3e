"""What the short examples share, so that each of them is about one thing."""
