"""The parameters of a run: typed, checked, secrets by reference only."""

from helpers.parameters.endpoint import Endpoint, Secret, SecretRef, resolve_path
from helpers.parameters.model import (
    IDENTITY,
    NOT_YAML,
    RESUMABLE,
    SECTIONS,
    Parameters,
    is_sample,
    json_schema,
    load_parameters,
    parameters_from,
    schema_file,
    schema_names,
)
from helpers.parameters.sections import ROLES, is_placeholder

__all__ = [
    "IDENTITY",
    "NOT_YAML",
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
