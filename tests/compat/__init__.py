"""Old versions of Chroma, real ones: what they hold migrates whole. Run by `make test-compat`, not by `make test`."""
