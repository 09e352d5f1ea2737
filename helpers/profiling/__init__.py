"""Exploring the source (notebook 11): a seeded sample in memory, what lies near what, tables to search and export.

Counts are exact and come from the one pass over the source (`profiling.profile`). What compares chunks with each other
works on a sample of stated size, so that a source of a million chunks fits into the same memory.
"""
