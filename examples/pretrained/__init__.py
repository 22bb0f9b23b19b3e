"""Pre-trained models of the field in Flax NNX, read from the files that people have and written back as they came."""
