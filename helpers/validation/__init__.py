"""Proving the outcome: every chunk compared, every search repeated, the eight tests."""
