"""The fault campaign: `make test-faults ROUNDS=n SEED=s`. Plain `make test` collects the quick test files here only."""
