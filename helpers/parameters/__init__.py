"""The parameters of a run: typed, checked, secrets by reference only."""

from helpers.parameters.model import (
    IDENTITY,
    RESUMABLE,
    ROLES,
    SECTIONS,
    Endpoint,
    Parameters,
    Secret,
    SecretRef,
    is_placeholder,
    is_sample,
    json_schema,
    load_parameters,
    parameters_from,
    resolve_path,
    schema_file,
    schema_names,
)

__all__ = [
    "IDENTITY",
    "RESUMABLE",
    "ROLES",
    "SECTIONS",
    "Endpoint",
    "Parameters",
    "Secret",
    "SecretRef",
    "is_placeholder",
    "is_sample",
    "json_schema",
    "load_parameters",
    "parameters_from",
    "resolve_path",
    "schema_file",
    "schema_names",
]
