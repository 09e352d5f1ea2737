"""Tests that take minutes: each file has a make target of its own, and `.ci/run` calls them. `make test` does not."""
