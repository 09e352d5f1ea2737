"""Secrets by reference only: parameters name where a secret is, and nothing but `Secret.reveal()` says what it is.

A reference is `env:NAME` (an environment variable) or `file:PATH` (the one line of a file). It is safe to print, to
store in a report and to pass to papermill, which writes parameter values into its output twice. The value is read when
it is needed and never earlier.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from helpers.errors import UsageError, hide

_REFERENCE = re.compile(r"env:(?P<env>[A-Za-z_][A-Za-z0-9_]*)|file:(?P<file>[^\x00-\x1f]+)")
EXPECTED = "must be a reference, 'env:NAME' or 'file:PATH', never the secret itself (what stands there is not shown)"


class Secret(str):
    """A secret's value in memory. As text it is `<secret env:NAME>`, also in repr, format and JSON.

    It is a `str` whose characters are the redacted text, so whatever prints, joins or serialises it by mistake
    shows the reference. Only `reveal()` gives the value. It cannot be pickled.
    """

    __slots__ = ("_value",)
    _value: str

    def __new__(cls, value: str, reference: str) -> Secret:
        secret = super().__new__(cls, f"<secret {reference}>")
        secret._value = value
        return secret

    def reveal(self) -> str:
        """The value itself: for the request that needs it, and for the search that proves it leaked nowhere."""
        return self._value

    def __repr__(self) -> str:
        return str.__str__(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled or copied; send its reference")


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is: `kind` is "env" or "file", `name` the variable or the path (from the current folder)."""

    kind: Literal["env", "file"]
    name: str

    @classmethod
    def parse(cls, text: Any) -> SecretRef:
        """`env:NAME` or `file:PATH` as a reference. ValueError otherwise; the message never repeats the text."""
        if isinstance(text, SecretRef):
            return text
        match = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(EXPECTED)
        return cls("env", match["env"]) if match["env"] else cls("file", match["file"])

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    def resolve(self) -> Secret:
        """The secret now. UsageError where it is not there, is empty or has more than one line."""
        value = self._from_env() if self.kind == "env" else self._from_file()
        if not value.strip():
            raise self._missing("is empty")
        if not value.isprintable():
            raise self._missing("has more than one line or control characters")
        secret = Secret(value, str(self))
        hide(value, str(secret))
        return secret

    def _from_env(self) -> str:
        value = os.environ.get(self.name)
        if value is None:
            raise self._missing("is not set")
        return value

    def _from_file(self) -> str:
        reason = ""
        try:
            value = Path(self.name).read_bytes().decode("utf-8")
        except UnicodeDecodeError:  # its message would repeat the bytes
            reason = "is not UTF-8 text"
        except (OSError, ValueError) as error:
            reason = f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"
        if reason:
            raise self._missing(reason)
        return value.removesuffix("\n").removesuffix("\r")

    def _missing(self, reason: str) -> UsageError:
        where = "environment variable" if self.kind == "env" else "file"
        what = f"the {where} '{self.name}', which a secret refers to, {reason}"
        next_step = "Export it and try again." if self.kind == "env" else "Write the secret there as one line."
        return UsageError("secret_missing", what, next_step=next_step)


SecretReference = Annotated[
    SecretRef,
    PlainValidator(SecretRef.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"}),
]
"""`SecretRef` as a parameter: a reference on the way in and out, in JSON a string."""
