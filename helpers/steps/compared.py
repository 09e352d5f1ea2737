"""Step 11, what only shows when chunks are compared: lengths, values, twins, neighbours, outliers, the map.

All of it works on the sample (`exploring.sample`); figures and tables say how large it is.
"""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from helpers import plots
from helpers.errors import UsageError, one_line
from helpers.exploring import near, neighbours
from helpers.exploring.export import file_stem
from helpers.exploring.sample import Sample
from helpers.parameters.typed_yaml import nearest as nearest_name
from helpers.steps.profile import Profile
from helpers.words import count


class Compared(Profile):
    """Every method hands back a DataFrame of its own, to slice and change."""

    @cached_property
    def sample(self) -> Sample:
        """What is compared chunk with chunk: the whole source up to 10,000 chunks, else a seeded sample of it."""
        return self.scan.sampler.sample(self.chunks)

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

        Without a name: of the field with most values that the schema would not let pass, else of the commonest one.
        """
        frame = self.sample.frame
        field = field or self._telling_field()
        values = self._field(field)
        rules = {rule.name: rule for kind in self._kinds() for rule in self.schema.rules(kind)}
        low, high = (rules[field].minimum, rules[field].maximum) if field in rules else (None, None)
        figure = plots.field_values(values, field, low, high, self.sample.said)
        self.run.figure(
            f"values_{file_stem(field)}", figure, f"Values of the field {one_line(field, 80)} in the source."
        )
        labels = pd.Series(neighbours.labels(values), name=one_line(field, 80))
        return pd.crosstab(labels, frame["collection"].rename("collection"))

    # -- what lies near what -------------------------------------------------------------------------------------------

    def near_duplicates(self) -> pd.DataFrame:
        """Chunks with a near twin before them in the sample (`exploring.near` states the thresholds): one row a chunk."""
        return self._pairs.copy()

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        with self.run.phase("near duplicates", len(self.sample)):
            return near.near_duplicates(self.sample)

    def nearest(self) -> pd.DataFrame:
        """One row a chunk and collection: the nearest neighbour there, and how far it is; for about 500 chunks."""
        return self._nearest.copy()

    @cached_property
    def _nearest(self) -> pd.DataFrame:
        with self.run.phase("neighbours", len(self.sample)):
            spaces = {name: seen.info.space for name, seen in self.scan.collections.items()}
            return neighbours.nearest(self.sample, spaces)

    def distances(self) -> pd.DataFrame:
        """The median distance from chunks of a collection (row) to their nearest neighbour in each (column). Draws them.

        In the space of the row's collection; empty where dimensions differ.
        """
        table = self._nearest
        asked = table[["collection", "id"]].drop_duplicates().shape[0]
        said = f"{count(asked, 'chunk')} asked, each against the sample. {self.sample.said}"
        caption = "Distances of chunks to their nearest neighbour in their own collection and in the others."
        self.run.figure("neighbours", plots.neighbour_distances(table, said), caption)
        names = list(self.scan.collections)
        wide = table.pivot_table(
            index="collection", columns="neighbour_collection", values="distance", aggfunc="median"
        )
        return wide.reindex(index=names, columns=names)

    def outliers(self) -> pd.DataFrame:
        """Chunks far from the others of their collection, the farthest first, by which rule (`neighbours.outliers`)."""
        return self._far.copy()

    @cached_property
    def _far(self) -> pd.DataFrame:
        return neighbours.outliers(self.sample)

    def map(self, colour: str = "collection") -> pd.DataFrame:
        """The sample's vectors on a plane (PCA), coloured by any column of `desk.sample.frame`; one row a point. Draws it."""
        values = self._field(colour)
        plane = self._plane
        if plane is None:
            self.run.figure("map", plots.pca_map([], [], colour, 0.0, ""), "No map: too few vectors.")
            return pd.DataFrame(columns=["collection", "id", colour, "x", "y"])
        rows = plane.rows
        shown = [str(label) for label in neighbours.labels(values)[rows]]
        note = (
            f"Directions of {count(len(rows), 'vector')} of {plane.dimension} dimensions (unit length), seed {self.sample.seed}. "
            f"{self.sample.said} An illustration: what lies apart here is apart, what lies together may not be."
        )
        figure = plots.pca_map(plane.points, shown, colour, plane.seen, note)
        self.run.figure(
            f"map_{file_stem(colour)}", figure, f"Map of the source's vectors, coloured by {one_line(colour, 80)}."
        )
        points = self.sample.frame.loc[rows, ["collection", "id"]].reset_index(drop=True)
        points[colour if colour not in points else f"{colour} "] = shown
        return points.assign(x=plane.points[:, 0], y=plane.points[:, 1])

    @cached_property
    def _plane(self) -> neighbours.Plane | None:
        return neighbours.plane(self.sample)

    def _telling_field(self) -> str:
        seen = {name: (sum(f.wrong.values()), sum(f.present.values())) for name, f in self.scan.fields.items()}
        there = [name for name in sorted(seen) if name in self.sample.frame]
        return max(there, key=lambda name: seen[name], default="collection")

    def _field(self, field: str) -> pd.Series:
        frame = self.sample.frame
        if field in frame:
            return frame[field]
        near_name = nearest_name(field, [str(key) for key in frame])
        raise UsageError(
            "field_unknown", f"no chunk of the sample has a field {one_line(field, 80)}", where="step 11",
            next_step=f"Did you mean {near_name}?" if near_name else "list(desk.sample.frame) names them all.",
        )  # fmt: skip
