"""Step 11, interactive: the profile, and what a DBA asks next, one collection, one finding, one chunk at a time."""

from __future__ import annotations

import html
from functools import cached_property
from itertools import islice
from typing import Any

import pandas as pd

from helpers import audit, plots
from helpers.chunks import ChunkBatch
from helpers.errors import UsageError, one_line
from helpers.formatting import count, text
from helpers.parameters.model import nearest as nearest_name
from helpers.profiling import ChunkFinding, Place, Sample, is_finding, of_groups, of_places, search, similarity
from helpers.profiling.profile import Profile, Scan
from helpers.profiling.search import Picker, file_stem, write_csv
from helpers.reason_codes import ReasonCode
from helpers.results import file_digest
from helpers.run import kernel
from helpers.run.folders import FINDINGS
from helpers.run.record import NotebookStep, RunRecord

LISTED = 12  # collections whose first chunks are listed in an unattended run
PORTRAITS = 2  # collections that get a figure in an unattended run


class ExploreSourceStep(NotebookStep):
    """Every method returns a new DataFrame, or shows one. Counts are exact. Comparisons of chunks with each other use the sample,
    and state its size.
    """

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.profile = Profile(run)
        self.schema, self.lookup = self.profile.schema, self.profile.lookup

    @property
    def scan(self) -> Scan:
        """The one pass over the source."""
        return self.profile.scan

    @cached_property
    def sample(self) -> Sample:
        """The chunks that are compared with each other: the whole source up to 10,000 chunks, else a seeded sample of it."""
        return self.scan.sampler.sample(self.profile.chunks)

    # The whole source

    def findings(self) -> dict[str, int]:
        """Finding → chunks. Those of the rehearsal source are known beforehand (`rehearsal.expected_findings`)."""
        return self.profile.findings()

    def overview(self) -> pd.DataFrame:
        """One row a collection: chunks, shape, documents, vectors, and chunks that would be quarantined."""
        return self.profile.overview()

    def completeness(self) -> pd.DataFrame:
        """Share of chunks that hold each field: one row a field, one column a collection. Draws the heat map."""
        return self.profile.completeness()

    def values(self) -> pd.DataFrame:
        """One row a field: types, range, the commonest values, and the values that the schema rejects."""
        return self.profile.values()

    def contradictions(self) -> pd.DataFrame:
        """Fields whose value contradicts the document: one row a collection and field, with an example."""
        return self.profile.contradictions()

    def vectors(self) -> pd.DataFrame:
        """One row a collection: lost, not finite, zero and unit vectors, and the norms (L2). Draws their histogram."""
        return self.profile.vectors()

    def duplicates(self) -> pd.DataFrame:
        """Documents, and vectors other than zero, that the source holds more than once, equal to the last bit."""
        path = self.run.folder / FINDINGS
        self.run.wrote(path, similarity.keep(self.scan, path))
        return similarity.duplicates(self.profile)

    def collisions(self) -> pd.DataFrame:
        """Ids that more than one collection uses, and whether they would meet in one target collection."""
        return similarity.collisions(self.profile)

    def routing(self) -> pd.DataFrame:
        """How many chunks of each source collection the schema would send to each target collection."""
        return self.profile.routing()

    def schema_preview(self) -> pd.DataFrame:
        """What the schema would do with these chunks: repair, quarantine, and the target collection of each."""
        return self.profile.schema_preview()

    # The sample

    def lengths(self) -> pd.DataFrame:
        """One row a collection: documents that are None, empty or blank (exact), and the lengths of the others in characters."""
        frame = self.sample.frame
        rows = []
        for name, seen in self.scan.collections.items():
            known = frame.loc[(frame["collection"] == name) & (frame["characters"] > 0), "characters"]
            five = known.quantile([0, 0.25, 0.5, 0.75, 0.95]).tolist() if len(known) else [float("nan")] * 5
            exact = {kind: seen.counts[f"{kind}_documents"] for kind in ("none", "empty", "blank", "long")}
            shares = dict(zip(("shortest", "quarter", "median", "three_quarters", "p95"), five, strict=True))
            rows.append({"collection": name, "chunks": seen.chunks, **exact, **shares, "longest": seen.longest})
        return pd.DataFrame(rows)

    def languages(self) -> pd.DataFrame:
        """Chunks by the value of their field `language`: one row a value, one column a collection. Every chunk is counted."""
        counts = {name: pd.Series(seen.languages, dtype="int64") for name, seen in self.scan.collections.items()}
        table = pd.DataFrame(counts).fillna(0).astype("int64").rename_axis("language")
        order = table.sum(axis="columns").sort_index().sort_values(ascending=False, kind="stable").index
        return table.loc[order]

    def distribution(self, field: str = "") -> pd.DataFrame:
        """The values of a field of the sample: one row a value (numbers: a range), one column a collection. Draws them.

        Without a name: the field with most values that the schema rejects, else the commonest field.
        """
        frame = self.sample.frame
        field = field or self._telling_field()
        values = self._field(field)
        rules = {rule.name: rule for kind in self.profile.kinds() for rule in self.schema.rules(kind)}
        low, high = (rules[field].minimum, rules[field].maximum) if field in rules else (None, None)
        figure = plots.field_values(values, field, low, high, self.sample.description)
        self.run.figure(
            f"values_{file_stem(field)}", figure, f"Values of the field {one_line(field, 80)} in the source."
        )
        labels = pd.Series(similarity.labels(values), name=one_line(field, 80))
        return pd.crosstab(labels, frame["collection"].rename("collection"))

    def near_duplicates(self) -> pd.DataFrame:
        """One row for each chunk with a near-duplicate before it in the sample; thresholds: `profiling.similarity`."""
        return self._pairs.copy()

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        with self.run.phase("near duplicates", len(self.sample)):
            return similarity.near_duplicates(self.sample)

    def nearest(self) -> pd.DataFrame:
        """One row a chunk and collection: the nearest neighbour in it, and its distance; for about 500 chunks."""
        return self._nearest.copy()

    @cached_property
    def _nearest(self) -> pd.DataFrame:
        with self.run.phase("neighbours", len(self.sample)):
            spaces = {name: seen.info.space for name, seen in self.scan.collections.items()}
            return similarity.nearest(self.sample, spaces)

    def distances(self) -> pd.DataFrame:
        """The median distance from chunks of a collection (row) to their nearest neighbour in each collection (column). Draws it.

        In the space of the row's collection; empty where dimensions differ.
        """
        table = self._nearest
        asked = table[["collection", "id"]].drop_duplicates().shape[0]
        among = "all" if self.sample.is_whole else f"a sample of {count(len(self.sample))}"
        total = count(self.profile.chunks, "chunk")
        note = f"Sample of {count(asked)} of {total}; neighbours are sought among {among}."
        self.run.sampled("neighbours in the own collection and in others", asked, self.profile.chunks)
        self.run.sampled("near-duplicates, outliers and neighbours: among", len(self.sample), self.profile.chunks)
        caption = "Distances of chunks to their nearest neighbour in their own collection and in the others."
        self.run.figure("neighbours", plots.neighbour_distances(table, note), caption)
        names = list(self.scan.collections)
        wide = table.pivot_table(
            index="collection", columns="neighbour_collection", values="distance", aggfunc="median"
        )
        return wide.reindex(index=names, columns=names)

    def outliers(self) -> pd.DataFrame:
        """Chunks far from the others of their collection, the farthest first, with the rule (`similarity.outliers`)."""
        return self._far.copy()

    @cached_property
    def _far(self) -> pd.DataFrame:
        return similarity.outliers(self.sample)

    def map(self, colour: str = "collection") -> pd.DataFrame:
        """The sample's vectors on a plane (PCA), coloured by any column of `step.sample.frame`; one row a point. Draws it."""
        values = self._field(colour)
        plane = self._plane
        if plane is None:
            self.run.figure("map", plots.pca_map([], [], colour, 0.0, ""), "No map: too few vectors.")
            columns = list(dict.fromkeys(("collection", "id", colour, "x", "y")))
            return pd.DataFrame(columns=columns, dtype=object).astype({"x": float, "y": float})
        rows = plane.rows
        shown = [str(label) for label in similarity.labels(values)[rows]]
        drawn = f"Sample of {count(len(rows))} of {count(self.profile.chunks, 'chunk')}, seed {self.sample.seed}"
        if self.sample.is_whole and len(rows) < similarity.DRAWN:
            drawn = f"{count(len(rows))} of {count(self.profile.chunks, 'chunk')}: all that have a direction and this dimension"
        note = (
            f"{drawn}. Directions (unit length) of vectors with {plane.dimension} dimensions. "
            "An illustration: what lies apart here is apart, what lies together may not be."
        )
        figure = plots.pca_map(plane.points, shown, colour, plane.explained_variance, note)
        self.run.figure(
            f"map_{file_stem(colour)}", figure, f"Map of the source's vectors, coloured by {one_line(colour, 80)}."
        )
        points = self.sample.frame.loc[rows, ["collection", "id"]].reset_index(drop=True)
        if colour not in points:
            points[colour] = shown
        return points.assign(x=plane.points[:, 0], y=plane.points[:, 1])

    @cached_property
    def _plane(self) -> similarity.Plane | None:
        return similarity.plane(self.sample)

    def _telling_field(self) -> str:
        seen = {name: (sum(f.wrong.values()), sum(f.present.values())) for name, f in self.scan.fields.items()}
        candidates = [name for name in sorted(seen) if name in self.sample.frame]
        return max(candidates, key=lambda name: seen[name], default="collection")

    def _field(self, field: str) -> pd.Series:
        frame = self.sample.frame
        if field in frame:
            return frame[field]
        near_name = nearest_name(field, [str(key) for key in frame])
        raise UsageError(
            ReasonCode.FIELD_UNKNOWN, f"no chunk of the sample has a field {one_line(field, 80)}", where="step 11",
            next_step=f"Did you mean {near_name}?" if near_name else "list(step.sample.frame) names them all.",
        )  # fmt: skip

    # One collection

    def pick(self) -> None:
        """A list of the collections; below it facts, figure and chunks of the chosen one, to sort and search.

        In an unattended run (`profiling.widgets`): the facts of every collection as one table, the first chunks of the
        12 largest and the figures of the two largest. Completeness and norms of all are drawn further below.
        """
        names = list(self.scan.collections)
        if names and search.attended():
            from IPython.display import display

            search.begin_tables()
            display(Picker(names, self._drawn).box)  # type: ignore[no-untyped-call]
            return
        search.show_frame(self.facts())
        largest = sorted(names, key=lambda name: (-self.scan.collections[name].chunks, name))[:LISTED]
        for number, name in enumerate(largest, start=1):
            if number <= PORTRAITS:
                figure, caption = self._portrait(name)
                self.run.figure(f"collection_{number}", figure, caption)
            search.show_frame(self.sample.collection(name), rows=3, caption=f"Collection {one_line(name, 80)}")

    def facts(self) -> pd.DataFrame:
        """One row a collection: size, dimension, space (actual and declared), configuration, metadata."""
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
            "text_search": self.lookup.reader.why_no_text_queries(name) or "yes",
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
        note = " ".join(filter(None, [self.sample.description, search.rows_note(chunks, search.ROWS)]))
        facts = f'<div class="tex2jax_ignore mathjax_ignore"><table>{rows}</table></div><p>{html.escape(note)}</p>'
        return [
            search.html_output(facts, one_line(str(self._facts(name)), 2_000)),
            search.picture_output(plots.png(figure), alt),
            search.html_output(search.table_html(chunks), count(len(chunks), "chunk")),
        ]

    def _portrait(self, name: str) -> tuple[Any, str]:
        """The figure of one collection, and its caption."""
        seen = self.scan.collections[name]
        facts = [count(seen.chunks, "chunk"), f"{seen.info.dimension or 'no'} dimensions", seen.info.space]
        if seen.info.space != seen.info.declared_space:
            facts[-1] += f" although declared {seen.info.declared_space}"
        facts += [
            f"{count(seen.counts[key], noun)}{note}"
            for key, noun, note in (
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
        whole = len(chunks) == seen.chunks
        total = count(seen.chunks, "chunk")
        note = f"all {total}." if whole else f"a sample of {len(chunks):,} of {total}."
        figure = plots.collection_portrait(name, ", ".join(facts), complete, chunks["characters"], chunks["norm"], note)
        fields = "its fields, the lengths of its documents, the norms of its vectors"
        return figure, f"Collection {one_line(name, 80)}: {fields}."

    # Tables

    def table(self, frame: pd.DataFrame) -> None:
        """Show a frame as a table to sort and search; in an unattended run its first rows. Raises UsageError for another type."""
        if not isinstance(frame, pd.DataFrame):
            raise UsageError(
                ReasonCode.NO_TABLE,
                f"a {type(frame).__name__} is not a DataFrame",
                where="step.table",
                next_step="Try .to_frame().",
            )
        search.show_table(frame)

    # Findings

    def found(self) -> pd.DataFrame:
        """One row a finding: name, chunks, collections, meaning, the step that treats it, the first chunk."""
        rows = []
        for finding in self._findings.values():
            code = ReasonCode.known(finding.reason)
            first = next(finding.every(), None)
            rows.append(
                {
                    "finding": finding.name,
                    "chunks": finding.chunks,
                    "collections": finding.collections,
                    "means": finding.meaning,
                    "see": code.step if code else "",
                    "first": f"{first.collection}: {first.id} {first.detail}".strip() if first else "",
                }
            )
        return pd.DataFrame(rows, columns=["finding", "chunks", "collections", "means", "see", "first"])

    def behind(self, finding: str, most: int = 200) -> pd.DataFrame:
        """The chunks behind a finding: collection, id, detail, the document's beginning, and their metadata as columns.

        The first `most` of them; where there are more, the frame says so on the screen and in its `attrs`.
        """
        match = self._finding(finding)
        chunks = self.lookup.chunks(islice(match.every(), most))
        metadata = pd.DataFrame([dict(m) if isinstance(m, dict) else {} for m in chunks["metadata"]])
        metadata = metadata.rename(columns={key: f"metadata.{key}" for key in metadata if key in chunks})
        frame = pd.concat([chunks.drop(columns="metadata"), metadata], axis="columns")
        return kernel.cut(
            frame, match.places, f"All: step.export({finding!r}), or behind({finding!r}, most={match.places})."
        )

    def export(self, finding: str) -> pd.DataFrame:
        """Write every chunk behind a finding, with whole documents, to a CSV file in the run's workspace; the audit log says so.

        One row: finding, chunks, rows, file, bytes, sha256. No file is written where no chunk has the finding.
        """
        match = self._finding(finding)
        row: dict[str, Any] = {
            "finding": finding,
            "chunks": match.chunks,
            "rows": 0,
            "file": "",
            "bytes": 0,
            "sha256": "",
        }
        if match.places:
            path = self.run.workspace / "exports" / f"11_{file_stem(finding)}.csv"
            row["rows"] = write_csv(path, self.lookup, match.every())
            row |= {"file": str(path), "bytes": path.stat().st_size, "sha256": file_digest(path)}
            audit.append(self.run.folder / audit.NAME, "finding exported", step=self.run.step, **row)
            self.run.log(f"{row['rows']} rows of the finding {one_line(finding, 80)} exported")
        return pd.DataFrame([row])

    def _finding(self, name: str) -> ChunkFinding:
        if name in self._findings:
            return self._findings[name]
        near = nearest_name(name, list(self._findings))
        if is_finding(name):
            return ChunkFinding.of(name, 0, ())  # a known finding that no chunk has
        raise UsageError(
            ReasonCode.FINDING_UNKNOWN, f"no finding is called {one_line(name, 80)}", where="step 11",
            next_step=f"Did you mean {near}?" if near else "step.found() lists them all.",
        )  # fmt: skip

    @cached_property
    def _findings(self) -> dict[str, ChunkFinding]:
        """Findings by name: first the defects, the most frequent on top, then what the schema would do."""
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
        """Groups of documents that are not all equal, but differ only in case, white space and Unicode form."""
        equal = {frozenset(group) for group in self.scan.documents.groups.values()}
        return [group for group in self.scan.texts.groups.values() if frozenset(group) not in equal]

    def _near(self) -> list[ChunkFinding]:
        pairs = self.near_duplicates()
        findings = []
        for name, kind in (("near_documents", "document"), ("near_vectors", "vector")):
            known = pairs["identical"] | ((pairs["similarity"] == 1) & (kind == "document"))
            part = pairs[(pairs["what"] == kind) & ~known]
            rows = zip(
                *(part[k] for k in ("collection", "id", "similarity", "like_collection", "like_id")), strict=True
            )
            places = [
                Place(name_, id_, f"{alike} like {other}: {like_id}") for name_, id_, alike, other, like_id in rows
            ]
            findings.append(ChunkFinding.of(name, len(places), places))
        far = self.outliers()
        rows = zip(far["collection"], far["id"], far["rule"], far["value"], strict=True)
        places = [Place(name, id_, f"{rule} {value:.4g}") for name, id_, rule, value in rows]
        return [*findings, ChunkFinding.of("outliers", far[["collection", "id"]].drop_duplicates().shape[0], places)]

    def _traps(self) -> list[ChunkFinding]:
        infos = [seen.info for seen in self.scan.collections.values()]
        findings = []
        for name, cosine in (("cosine_trap", True), ("space_trap", False)):
            trapped = [i for i in infos if i.space != i.declared_space and (i.space == "cosine") is cosine]
            places = [Place(i.name, "", f"declared {i.declared_space}, queries answer {i.space}") for i in trapped]
            findings.append(ChunkFinding.of(name, sum(i.count for i in trapped), places))
        return findings

    # Searches

    def search(self, text: str, collection: str = "", k: int = 5) -> pd.DataFrame:
        """The k chunks of each collection (or of one) nearest to a text, with the collection's own embedding function.

        Where a function is not available, the remark gives the reason.
        """
        return search.by_text(self.lookup, self._asked(collection), text, k)

    def like(self, chunk: str = "", collection: str = "", k: int = 5) -> pd.DataFrame:
        """More like this id: the k chunks of each collection (or of one) nearest to its vector. Without an id, of any chunk."""
        home, chunk = self._home(chunk, collection)
        if not home:
            return pd.DataFrame(columns=search.COLUMNS)
        return search.by_id(self.lookup, self._asked(collection), chunk, home, k)

    def explain(self, chunk: str = "", collection: str = "") -> pd.DataFrame:
        """One chunk before and after the schema, rule by rule. Without an id, of any chunk."""
        home, chunk = self._home(chunk, collection)
        batch = self.lookup.read(home, [chunk], embeddings=True) if home else ChunkBatch.empty()
        if not len(batch):
            return pd.DataFrame(columns=list(search.EXPLAIN_COLUMNS))
        info = self.lookup.reader.info(home)
        return search.explain_chunk(self.schema, batch, info, self.scan.context, self.run.parameters)

    def _home(self, chunk: str, collection: str) -> tuple[str, str]:
        """(collection, id) of a chunk: the first collection that holds it. Without an id: the first usable chunk."""
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
                ReasonCode.COLLECTION_UNKNOWN, f"no collection is called {one_line(collection, 80)}", where="step 11",
                next_step=f"Did you mean {near_name}?" if near_name else "step.facts() lists them all.",
            )  # fmt: skip
        return [collection]
