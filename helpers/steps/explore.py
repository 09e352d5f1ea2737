"""Step 11 as a desk: the profile, and what a DBA asks next, one collection, one finding, one chunk at a time."""

from __future__ import annotations

import html
from functools import cached_property
from typing import Any

import pandas as pd

from helpers import audit, plots
from helpers.errors import UsageError, one_line
from helpers.exploring import asking, front_end
from helpers.exploring.export import file_name, write_csv
from helpers.exploring.findings import Finding, is_known, of_groups, of_places
from helpers.exploring.picker import Picker
from helpers.exploring.places import Place
from helpers.parameters.typed_yaml import nearest as nearest_name
from helpers.run import tables
from helpers.run.folders import file_digest
from helpers.steps.compared import Compared
from helpers.troubleshooting.map import row_of
from helpers.words import count, text

LISTED = 12  # collections whose first chunks are listed where nobody chooses
PORTRAITS = 2  # collections that get a figure where nobody chooses


class Explore(Compared):
    """Every method hands back a DataFrame, or shows one; what they compare is the sample, and each says how large it is."""

    # -- one collection ------------------------------------------------------------------------------------------------

    def pick(self) -> None:
        """A list of the collections; below it facts, figure and chunks of the chosen one, to sort and search.

        Where nobody looks on (`exploring.front_end`): the facts of every collection as one table, the first chunks of the
        12 largest and the figures of the two largest. Completeness and norms of all are drawn further below.
        """
        names = list(self.scan.collections)
        if names and front_end.attended():
            from IPython.display import display

            front_end.begin_tables()
            display(Picker(names, self._drawn).box)  # type: ignore[no-untyped-call]
            return
        front_end.show_frame(self.facts())
        largest = sorted(names, key=lambda name: (-self.scan.collections[name].chunks, name))[:LISTED]
        for number, name in enumerate(largest, start=1):
            if number <= PORTRAITS:
                figure, caption = self._portrait(name)
                self.run.figure(f"collection_{number}", figure, caption)
            front_end.show_frame(self.sample.collection(name), rows=3, caption=f"Collection {one_line(name, 80)}")

    def facts(self) -> pd.DataFrame:
        """One row a collection: size, dimension, space (as it is, and as it is declared), configuration, metadata."""
        return pd.DataFrame([self._facts(name) for name in self.scan.collections])

    def _facts(self, name: str) -> dict[str, Any]:
        seen = self.scan.collections[name]
        info = seen.info
        return {
            "collection": name,
            "chunks": seen.chunks,
            "dimension": info.dimension,
            "space": info.space,
            "declared_space": info.declared_space,
            "embedding_function": info.embedding_function or "(none)",
            "text_search": self.lookup.reader.text_queries_available(name) or "yes",
            "configuration": info.configuration,
            "metadata": info.metadata or {},
            "remarks": "; ".join(info.findings),
        }

    def _drawn(self, name: str) -> list[dict[str, Any]]:
        figure, caption = self._portrait(name)
        alt = ". ".join([" ".join(figure.get_suptitle().split()), caption])
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left">{html.escape(key)}</th>'
            f'<td style="text-align:left">{html.escape(text(value, 1_000))}</td></tr>'
            for key, value in self._facts(name).items()
        )
        chunks = self.sample.collection(name)
        said = " ".join(filter(None, [self.sample.said, front_end.rows_said(chunks, front_end.ROWS)]))
        facts = f'<div class="tex2jax_ignore mathjax_ignore"><table>{rows}</table></div><p>{html.escape(said)}</p>'
        return [
            front_end.html_output(facts, one_line(str(self._facts(name)), 2_000)),
            front_end.picture_output(plots.png(figure), alt),
            front_end.html_output(front_end.table_html(chunks), f"{len(chunks)} chunks"),
        ]

    def _portrait(self, name: str) -> tuple[Any, str]:
        """The figure of one collection, and its caption."""
        seen = self.scan.collections[name]
        facts = [count(seen.chunks, "chunk"), f"{seen.info.dimension or 'no'} dimensions", seen.info.space]
        if seen.info.space != seen.info.declared_space:
            facts[-1] += f" although declared {seen.info.declared_space}"
        facts += [
            f"{count(seen.counts[key], noun)}{said}"
            for key, noun, said in (
                ("zero_vectors", "zero vector", ""), ("nonfinite_vectors", "vector", " not finite"),
                ("lost_vectors", "lost vector", ""), ("none_documents", "", " without document"),
                ("empty_documents", "", " with an empty document"),
            )
            if seen.counts[key]
        ]  # fmt: skip
        rules = [rule.name for rule in self.schema.fields] or sorted(self.scan.fields)
        complete = {
            field: (self.scan.fields[field].present[name] if field in self.scan.fields else 0) / max(1, seen.chunks)
            for field in rules
        }
        chunks = self.sample.collection(name)
        figure = plots.collection_portrait(
            name, ", ".join(facts), complete, chunks["characters"], chunks["norm"], self.sample.said
        )
        return (
            figure,
            f"Collection {one_line(name, 80)}: its fields, the lengths of its documents, the norms of its vectors.",
        )

    # -- tables --------------------------------------------------------------------------------------------------------

    def table(self, frame: pd.DataFrame) -> None:
        """Any frame as a table to sort and search; where nobody looks on, its first rows."""
        if not isinstance(frame, pd.DataFrame):
            raise UsageError(
                "no_table",
                f"a {type(frame).__name__} is no DataFrame",
                where="desk.table",
                next_step="Try .to_frame().",
            )
        front_end.show_table(frame)

    # -- findings ------------------------------------------------------------------------------------------------------

    def found(self) -> pd.DataFrame:
        """One row a finding, by name: how many chunks, in how many collections, what it means, where it is treated."""
        rows = []
        for finding in self._found.values():
            step = row.step if (row := row_of(finding.reason)) else ""
            first = next(finding.every(), None)
            rows.append(
                {
                    "finding": finding.name,
                    "chunks": finding.chunks,
                    "collections": finding.collections,
                    "means": finding.meaning,
                    "see": step,
                    "first": f"{first.collection}: {first.id} {first.detail}".strip() if first else "",
                }
            )
        return pd.DataFrame(rows, columns=["finding", "chunks", "collections", "means", "see", "first"])

    def behind(self, finding: str, most: int = 200) -> pd.DataFrame:
        """The chunks behind a finding: collection, id, detail, the document's beginning, and their metadata as columns.

        The first `most` of them; where there are more, the frame says so on the screen and in its `attrs`.
        """
        found = self._finding(finding)
        chunks = self.lookup.chunks(found.first(most))
        metadata = pd.DataFrame([dict(m) if isinstance(m, dict) else {} for m in chunks["metadata"]])
        metadata = metadata.rename(columns={key: f"metadata.{key}" for key in metadata if key in chunks})
        frame = pd.concat([chunks.drop(columns="metadata"), metadata], axis="columns")
        return tables.cut(
            frame, found.places, f"All: desk.export({finding!r}), or behind({finding!r}, most={found.places})."
        )

    def export(self, finding: str) -> pd.DataFrame:
        """Every chunk behind a finding as a CSV file in the run's workspace, with whole documents; the audit log says so.

        One row: finding, chunks, rows, file, bytes, sha256. No file is written where nothing was found.
        """
        found = self._finding(finding)
        row: dict[str, Any] = {
            "finding": finding,
            "chunks": found.chunks,
            "rows": 0,
            "file": "",
            "bytes": 0,
            "sha256": "",
        }
        if found.places:
            path = self.run.workspace / "exports" / file_name(finding)
            row["rows"] = write_csv(path, self.lookup, found.every())
            row |= {"file": str(path), "bytes": path.stat().st_size, "sha256": file_digest(path)}
            audit.append(self.run.folder / audit.NAME, "finding exported", step=self.run.step, **row)
            self.run.log(f"{row['rows']} rows of the finding {one_line(finding, 80)} exported")
        return pd.DataFrame([row])

    def _finding(self, name: str) -> Finding:
        if name in self._found:
            return self._found[name]
        near = nearest_name(name, list(self._found))
        if is_known(name):
            return Finding.of(name, 0, ())  # there is such a finding; nothing has it here
        raise UsageError(
            "finding_unknown", f"no finding is called {one_line(name, 80)}", where="step 11",
            next_step=f"Did you mean {near}?" if near else "desk.found() lists them all.",
        )  # fmt: skip

    @cached_property
    def _found(self) -> dict[str, Finding]:
        """By name: first what is wrong, the most frequent on top, then what the schema would do."""
        scan = self.scan
        noted = {finding.name: finding for finding in of_places(scan.places)}
        mixed = any(
            seen.counts["unnormalised_vectors"] > 0 and seen.counts["unit_vectors"]
            for seen in scan.collections.values()
        )
        if not mixed:
            noted.pop("unnormalised_vectors", None)
        other = [
            of_groups("duplicate_documents", scan.documents.groups.values()),
            of_groups("duplicate_vectors", scan.vectors.groups.values()),
            of_groups("respaced_documents", self._respaced()),
            of_groups("colliding_ids", scan.ids.groups.values()),
            *self._near(), *self._traps(),
        ]  # fmt: skip
        every = [finding for finding in (*noted.values(), *other) if finding.chunks]
        every.sort(key=lambda f: (f.name.split(" ")[0] in ("repair", "quarantine"), -f.chunks, f.name))
        return {finding.name: finding for finding in every}

    def _respaced(self) -> list[list[tuple[str, ...]]]:
        """Groups of documents that read the same and are not all equal to the last letter."""
        equal = {frozenset(group) for group in self.scan.documents.groups.values()}
        return [group for group in self.scan.texts.groups.values() if frozenset(group) not in equal]

    def _near(self) -> list[Finding]:
        pairs = self.near_duplicates()
        found = []
        for name, what in (("near_documents", "document"), ("near_vectors", "vector")):
            known = pairs["identical"] | ((pairs["similarity"] == 1) & (what == "document"))
            part = pairs[(pairs["what"] == what) & ~known]
            rows = zip(
                *(part[k] for k in ("collection", "id", "similarity", "like_collection", "like_id")), strict=True
            )
            places = [Place(name_, id_, f"{alike} like {other}: {twin}") for name_, id_, alike, other, twin in rows]
            found.append(Finding.of(name, len(places), places))
        far = self.outliers()
        rows = zip(far["collection"], far["id"], far["rule"], far["value"], strict=True)
        places = [Place(name, id_, f"{rule} {value:.4g}") for name, id_, rule, value in rows]
        return [*found, Finding.of("outliers", far[["collection", "id"]].drop_duplicates().shape[0], places)]

    def _traps(self) -> list[Finding]:
        infos = [seen.info for seen in self.scan.collections.values()]
        found = []
        for name, cosine in (("cosine_trap", True), ("space_trap", False)):
            trapped = [i for i in infos if i.space != i.declared_space and (i.space == "cosine") is cosine]
            places = [Place(i.name, "", f"declared {i.declared_space}, queries answer {i.space}") for i in trapped]
            found.append(Finding.of(name, sum(i.count for i in trapped), places))
        return found

    # -- searches ------------------------------------------------------------------------------------------------------

    def search(self, text: str, collection: str = "", k: int = 5) -> pd.DataFrame:
        """The k chunks of each collection (or of one) nearest to a text, with the collection's own embedding function.

        Where a function is not here, the remark says why.
        """
        return asking.by_text(self.lookup, self._asked(collection), text, k)

    def like(self, chunk: str = "", collection: str = "", k: int = 5) -> pd.DataFrame:
        """More like this id: the k chunks of each collection (or of one) nearest to its vector. Without an id, of any chunk."""
        home, chunk = self._home(chunk, collection)
        if not home:
            return pd.DataFrame(columns=asking.COLUMNS)
        return asking.by_id(self.lookup, self._asked(collection), chunk, home, k)

    def _home(self, chunk: str, collection: str) -> tuple[str, str]:
        """The collection a chunk is in, and its id; the first of them that knows it. Without an id the first usable chunk."""
        if not chunk:
            whole = self.sample.frame[self.sample.frame["norm"] > 0]
            first = whole if not collection else whole[whole["collection"] == collection]
            return (str(first.iloc[0]["collection"]), str(first.iloc[0]["id"])) if len(first) else ("", "")
        asked = self._asked(collection)
        return next((name for name in asked if len(self.lookup.read(name, [chunk]))), asked[0] if asked else ""), chunk

    def _asked(self, collection: str) -> list[str]:
        names = list(self.scan.collections)
        if not collection:
            return names
        if collection not in names:
            near_name = nearest_name(collection, names)
            raise UsageError(
                "collection_unknown", f"no collection is called {one_line(collection, 80)}", where="step 11",
                next_step=f"Did you mean {near_name}?" if near_name else "desk.facts() lists them all.",
            )  # fmt: skip
        return [collection]
