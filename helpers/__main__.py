"""`python -m helpers` is the `runbook` command."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the working folder, put there by -m: no library is taken from where data lies

from helpers.cli import main

if __name__ == "__main__":
    sys.exit(main())
