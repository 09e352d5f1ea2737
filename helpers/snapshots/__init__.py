"""Snapshots of a source as Parquet files with a manifest: written, verified, compared, kept."""
