"""What is measured of source, target and application after the cutover, and while clients move."""
