"""Notebook 42: values that the schema does not allow, what happens to them, and a schema that repairs them.

A run keeps its schema from the first step to the last. Other rules need a new schema file and a new run: this notebook
writes the file, tests it on the snapshot without writing anything else, and gives the command.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from helpers.errors import RUNBOOK, UsageError
from helpers.formatting import count
from helpers.reason_codes import ReasonCode
from helpers.results import write_text
from helpers.run.folders import RunPath
from helpers.run.kernel import cut
from helpers.schema import Context, Schema, Transformed, load_schema
from helpers.schema.file import SchemaFile
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import CollectionInfo
from helpers.troubleshooting import Condition, ProbeResult, Troubleshooter

COLUMNS = ["collection", "id", "field", "before", "outcome", "after"]
KEPT = 2_000  # rows shown; the counts are of all


class InvalidScoresStep(Troubleshooter):
    """How the schema changes or rejects the snapshot's values. The resolution writes a schema that repairs rejected values."""

    code = ReasonCode.INVALID_FIELD
    _repaired: Schema | None = None

    def look(self) -> ProbeResult:
        rejected: Counter[tuple[str, str]] = Counter()
        repaired: Counter[tuple[str, str, str]] = Counter()
        chunks = 0
        for info, done in self._transformed():
            failures = self._failures(info, done)
            rejected.update(zip(failures["collection"], failures["reason"], strict=True))
            chunks += failures["id"].nunique()
            rows = done.repairs[done.repairs["rule"].isin(["clamp", "default", "coerce"])]
            repaired.update(zip(rows["collection"], rows["field"], rows["rule"], strict=True))
        rows_ = [(c, reason, "set aside", n) for (c, reason), n in sorted(rejected.items())]
        rows_ += [(c, field, f"repaired: {rule}", n) for (c, field, rule), n in sorted(repaired.items())]
        table = pd.DataFrame(rows_, columns=["collection", "what", "outcome", "chunks"])
        share = chunks / self.snapshot.total if self.snapshot.total else 0.0
        sentence = (
            f"{chunks:,} of {count(self.snapshot.total, 'chunk')} ({share:.2%}) would be set aside" if chunks else ""
        )
        return ProbeResult(table, chunks, sentence, "chunks")

    def scores(self, field: str = "authenticity_score") -> pd.DataFrame:
        """One row for each chunk whose value of a field is changed or rejected: before, outcome, after (2,000 at most)."""
        rows: list[tuple[Any, ...]] = []
        for info, done in self._transformed():
            mine = done.repairs[(done.repairs["field"] == field) & (done.repairs["rule"] != "missing")]
            rows += [(info.name, r.id, field, r.before, r.rule, r.after) for r in mine.itertuples()]
            failed = done.failures[done.failures["reason"] == ReasonCode.INVALID.of(field)]
            rows += [(info.name, r.id, field, r.detail, "set aside", "") for r in failed.itertuples()]
        return cut(pd.DataFrame(rows[:KEPT], columns=COLUMNS), len(rows))

    def rules(self) -> pd.DataFrame:
        """The schema's rules for fields with rejected values, each with the repair that the resolution proposes."""
        proposed = {(kind, rule["name"]): rule for kind, rule in _rules(self.proposal().content.model_dump())}
        rows = []
        for kind, rule in _rules(self.schema.content.model_dump()):
            new = proposed[kind, rule["name"]]
            if new != rule:
                bounds = (rule["type"], rule["minimum"], rule["maximum"], rule["repair"])
                rows.append((kind or "all", rule["name"], *bounds, new["repair"]))
        return pd.DataFrame(rows, columns=["type", "field", "value type", "minimum", "maximum", "repair", "proposed"])

    def conditions(self, **options: Any) -> list[Condition]:
        unrepaired = [f"{reason} {n}" for reason, n in sorted(self._unrepairable(**options).items())]
        return [
            self.idle_condition(),
            Condition("the run has a schema with fields", not self.schema.is_identity, self.schema.name),
            Condition("every rejected value can be repaired by a rule", not unrepaired, ", ".join(unrepaired)),
        ]

    def plan(self, **options: Any) -> pd.DataFrame:
        schema = self.proposal(**options)
        rows = [("schema file", str(self._file)), ("chunks set aside under it", str(self._set_aside(schema)))]
        return pd.DataFrame([*rows, *self._commands()], columns=["what", "value"])

    def apply(self, **options: Any) -> pd.DataFrame:
        """Write the schema, and the parameters of a new run with it. The probe then uses the new schema."""
        schema = self.proposal(**options)
        document = {k: v for k, v in schema.content.model_dump(mode="json", exclude_defaults=True).items() if v}
        _write_yaml(self._file, {"name": schema.name, **document})
        parameters = {**self.run.parameters.document(), "schema": str(self._file)}
        _write_yaml(self._file.parent / RunPath.PARAMETERS, parameters)
        self._repaired = load_schema(str(self._file))
        self.note("repaired schema written", schema=str(self._file), digest=self._repaired.digest)
        return pd.DataFrame([("schema file", str(self._file)), *self._commands()], columns=["what", "value"])

    def undo(self) -> str:
        """Remove the proposed files, but not in a dry run; nothing else was written."""
        if self.run.dry_run:
            return f"would remove {self._file.parent}"
        for file in (self._file, self._file.parent / RunPath.PARAMETERS):
            file.unlink(missing_ok=True)
        self._repaired = None
        self.note("repaired schema removed", schema=str(self._file))
        return f"removed {self._file.parent}"

    def proposal(self, repairs: dict[str, str] | None = None, defaults: dict[str, Any] | None = None) -> Schema:
        """This run's schema with rules that repair: numbers are clamped to their bounds, other values get their default.

        `repairs` and `defaults` override that by field: {"author": "default"}, {"author": "Unknown"}. Raises UsageError for a
        default that the schema does not allow.
        """
        content = self.schema.content.model_dump(mode="python")
        failing = {reason.partition("_")[2] for reason in self._rejected()}
        for _, rule in _rules(content):
            name = rule["name"]
            if name in (defaults or {}):
                rule |= {"default": (defaults or {})[name], "repair": "default", "optional": False}
            elif name in (repairs or {}):
                rule["repair"] = (repairs or {})[name]
            elif name in failing and rule["repair"] == "reject":
                bounded = rule["minimum"] is not None or rule["maximum"] is not None
                filled = rule["default"] is not None or rule["optional"]
                rule["repair"] = "clamp" if bounded else "default" if filled else "reject"
        try:
            return Schema(SchemaFile.model_validate({**content, "name": f"{self.schema.name}-repaired"}))
        except ValueError as error:
            raise UsageError(ReasonCode.BAD_REPAIR, str(error).splitlines()[-1], where="resolve()",
                             next_step="Give a legal default.") from error  # fmt: skip

    @cached_property
    def schema(self) -> Schema:
        """The schema of this run."""
        return load_schema(self.run.parameters.schema_name)

    @property
    def _file(self) -> Path:
        return self.run.workspace / "repaired" / f"{self.schema.name}-repaired.yaml"

    def _commands(self) -> list[tuple[str, str]]:
        parameters = self._file.parent / RunPath.PARAMETERS
        elsewhere = self._written()
        rows = [
            ("test it", f"{RUNBOOK} run {parameters} --run-id {self.run.id}-repaired --dry-run"),
            ("then migrate", f"{RUNBOOK} run --run-id {self.run.id}-repaired --from 20"),
        ]
        if elsewhere:
            rows.append(("first", f"the target holds {elsewhere}: undo that, or name another target"))
        return rows

    def _written(self) -> str:
        ledger = self.ledger()
        return ", ".join(ledger.owned()) if ledger is not None else ""

    def _transformed(self, schema: Schema | None = None) -> Iterator[tuple[CollectionInfo, Transformed]]:
        chosen = schema or self._repaired or self.schema
        context = Context.of(self.snapshot.names(), self.run.date, self.run.parameters.migration)
        snapshot: Snapshot = self.snapshot
        with self.run.progress("Transform", snapshot.total) as bar:
            for info in snapshot.collections():
                for batch in snapshot.batches(info.name):
                    yield info, chosen.transform(batch, info.name, context)
                    bar.advance(len(batch))

    def _failures(self, info: CollectionInfo, done: Transformed, schema: Schema | None = None) -> pd.DataFrame:
        """Failures of values only: vectors belong to notebook 47, documents to 46."""
        chosen = schema or self._repaired or self.schema
        context = Context.of(self.snapshot.names(), self.run.date, self.run.parameters.migration)
        failures = chosen.failures(done, context, dimension=info.dimension, allowed_dimensions=(), space=info.space)
        values = failures["reason"].str.startswith(("invalid_", "unsupported_", "empty_")) | (
            failures["reason"].str.startswith("missing_")
            & ~failures["reason"].isin([ReasonCode.MISSING_EMBEDDING, ReasonCode.MISSING_DOCUMENT])
        )
        return failures[values]

    def _rejected(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        for info, done in self._transformed(self.schema):
            counted.update(self._failures(info, done, self.schema)["reason"])
        return counted

    def _unrepairable(self, **options: Any) -> Counter[str]:
        counted: Counter[str] = Counter()
        schema = self.proposal(**options)
        for info, done in self._transformed(schema):
            counted.update(self._failures(info, done, schema)["reason"])
        return counted

    def _set_aside(self, schema: Schema) -> int:
        return sum(self._failures(i, d, schema)["id"].nunique() for i, d in self._transformed(schema))


def _rules(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(collection type or "", rule) of every field in a schema's content; the rules may be changed in place."""
    yield from (("", rule) for rule in content["fields"])
    for kind, rules in content["extensions"].items():
        yield from ((kind, rule) for rule in rules)


def _write_yaml(path: Path, document: dict[str, Any]) -> None:
    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    yaml.dump(document, text)
    write_text(path, text.getvalue())
