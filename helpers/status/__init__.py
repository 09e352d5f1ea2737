"""The state of runs: for notebook 00, `runbook status` and the terminal."""
