"""Code that the short examples share."""
