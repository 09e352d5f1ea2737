"""Pages: a run, all runs, a rollback, and executed notebooks as HTML that works offline."""
