"""Steps 50 to 53."""
