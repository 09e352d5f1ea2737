"""Generated inputs through every parser of the package: `make test-fuzz INPUTS=n SEED=s`."""
