"""The measures M1 to M9 of the toolkit beside a naive script, a floor and other tools: `python -m benchmarks`, or `make bench`.

`docs/benchmarks.md` says what each measure is. Ratios travel from one machine to another, seconds do not. Nothing here
passes or fails; what could not be measured is listed as NOT EXERCISED, with the reason.
"""
