"""Step 11 as a desk: the profile, and what a DBA asks next, one collection, one finding, one chunk at a time."""

from __future__ import annotations

import html
from functools import cached_property
from typing import Any

import pandas as pd

from helpers import plots
from helpers.errors import UsageError, one_line
from helpers.exploring import front_end
from helpers.exploring.picker import Picker
from helpers.exploring.sample import Sample
from helpers.steps.profile import Profile
from helpers.words import count, text

PORTRAITS = 12  # collections that get a figure where nobody chooses


class Explore(Profile):
    """Every method hands back a DataFrame, or shows one; what they compare is the sample, and each says how large it is."""

    @cached_property
    def sample(self) -> Sample:
        """What is compared chunk with chunk: the whole source up to 10,000 chunks, else a seeded sample of it."""
        return self.scan.sampler.sample(self.chunks)

    # -- one collection ------------------------------------------------------------------------------------------------

    def pick(self) -> None:
        """A list of the collections; below it facts, figure and chunks of the chosen one, to sort and search.

        Where nobody looks on (`exploring.front_end`): the facts of every collection as a table, and the figures of the 12
        largest with their first chunks.
        """
        names = list(self.scan.collections)
        if names and front_end.attended():
            from IPython.display import display

            front_end.begin_tables()
            display(Picker(names, self._drawn).box)  # type: ignore[no-untyped-call]
            return
        front_end.show_frame(self.facts())
        largest = sorted(names, key=lambda name: (-self.scan.collections[name].chunks, name))[:PORTRAITS]
        for number, name in enumerate(largest, start=1):
            figure, caption = self._portrait(name)
            self.run.figure(f"collection_{number:02d}", figure, caption)
            front_end.show_frame(self.sample.collection(name), rows=5)

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
            f"{count(seen.counts[key])} {said}"
            for key, said in (
                ("zero_vectors", "zero vectors"), ("nonfinite_vectors", "not finite"), ("lost_vectors", "lost vectors"),
                ("none_documents", "without document"), ("empty_documents", "with an empty one"),
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
                "no_table", f"a {type(frame).__name__} is no DataFrame", where="table", next_step="Try .to_frame()."
            )
        front_end.show_table(frame)
