"""Ratios of two ways to do the same work, measured in turn on this machine: `python -m benchmarks`, or `make bench`.

Only ratios are shown and worth comparing between machines; nothing here passes or fails.
"""
