"""What the fine-tuning example is made of: tasks, models, methods, training, evaluation, report."""
