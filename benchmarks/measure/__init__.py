"""What the cost benchmarks share: trees, methods, the compiled step, timing, the report and the figures' style."""
