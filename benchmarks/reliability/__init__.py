"""What the reliability benchmark does to the library and to the main job, one kind of harm a file."""
