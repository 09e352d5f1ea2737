"""Schemas as data: what a migration does to ids and metadata."""

from helpers.schema.engine import REPAIRS, Context, Schema, Transformed, load_schema

__all__ = [
    "REPAIRS",
    "Context",
    "Schema",
    "Transformed",
    "load_schema",
]
