"""Section 4 of the runbook: from a reason code to the notebook that explains it, and what that notebook does."""
