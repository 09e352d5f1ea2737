"""The checks of the toolkit, one file for each behaviour."""
