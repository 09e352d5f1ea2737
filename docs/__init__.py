"""The documentation, and the program that generates two of its pages."""
