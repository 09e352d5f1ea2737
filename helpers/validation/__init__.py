"""Proving the outcome: every chunk compared, every search repeated, the tests of step 23."""
