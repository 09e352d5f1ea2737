"""A run: its folders, its steps, and what a step sees of it."""
