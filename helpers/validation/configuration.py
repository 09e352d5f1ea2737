"""Whether a collection keeps its configuration, setting by setting, and whether its full-text index answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from helpers.errors import WorldError
from helpers.reason_codes import ReasonCode
from helpers.results import Check, Verdict
from helpers.run.record import RunRecord
from helpers.snapshots.comparison import metadata_differences
from helpers.stores.base import HNSW_METADATA, CollectionInfo, legacy_parameters
from helpers.stores.client import ClientStore
from helpers.stores.creation import VECTORS, allowed, effective_configuration, reduced, unsupported

COLUMNS = ["collection", "setting", "source", "target", "state", "why"]
KEPT, EXPLAINED, DIFFERENT = "kept", "explained", "DIFFERENT"
NAME, REASON = "configuration", ReasonCode.CONFIGURATION_DIFFERS


def compare_configuration(
    source: CollectionInfo, target: CollectionInfo, drop_indexes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """A row per setting of the index, the embedding function, and each key of the collection's metadata.

    What a local Chroma cannot hold is explained where `drop_indexes` names the collection.
    """
    dropped: list[dict[str, Any]] = []
    if allowed(source, drop_indexes):
        why = "migration.drop_indexes gives it up"
        dropped = [_row(source.name, f"{i.kind} on {i.key}", "yes", i.becomes, why) for i in unsupported(source)]
        source = reduced(source)
    was, now = effective_configuration(source), effective_configuration(target)
    rows = [_row(source.name, "space", source.space, target.space)]
    kind = "spann" if was.get("spann") else "hnsw"
    before, after = dict(was[kind] or {}), dict(now.get(kind) or {})
    for setting in sorted(before.keys() - {"space"}):
        why = "" if setting in after else "the target does not say"
        rows.append(_row(source.name, setting, before[setting], after.get(setting), why))
    metadata = source.metadata or {}
    refused, kept = "current servers refuse this value or break on it; the default is used", legacy_parameters(metadata)
    left_out = [key for key in sorted(metadata) if key in HNSW_METADATA and HNSW_METADATA[key] not in kept]
    rows += [_row(source.name, HNSW_METADATA[key], metadata[key], None, refused) for key in left_out]
    rows.append(_function(source.name, was["embedding_function"], now["embedding_function"]))
    return rows + dropped + _switches(source, target) + _metadata(source, target)


def judge(rows: list[dict[str, Any]]) -> Check:
    """FAIL where a setting differs and nothing explains it."""
    if not rows:
        return Check(NAME, Verdict.NOT_APPLICABLE, detail="the schema creates new collections")
    wrong = [row for row in rows if row["state"] == DIFFERENT]
    detail = "; ".join(f"{r['collection']}: {r['setting']} {r['source']} became {r['target']}" for r in wrong[:5])
    verdict = Verdict.FAIL if wrong else Verdict.PASS
    return Check(NAME, verdict, len(rows) - len(wrong), len(rows), "settings", REASON if wrong else "", detail,
                 len(wrong), [{k: r[k] for k in ("collection", "setting")} for r in wrong[:20]])  # fmt: skip


def _row(collection: str, setting: str, was: Any, now: Any, why: str = "") -> dict[str, Any]:
    same = type(was) is type(now) and was == now
    state = KEPT if same else EXPLAINED if why else DIFFERENT
    shown = ["" if value is None else str(value) for value in (was, now)]
    return dict(zip(COLUMNS, (collection, setting, *shown, state, "" if same else why), strict=True))


def _function(collection: str, was: Any, now: Any) -> dict[str, Any]:
    nothing = {"none", "legacy"}
    names = [_function_name(function) for function in (was, now)]
    if set(names) <= nothing:
        return _row(collection, "embedding function", "none", "none")
    if names[0] == names[1] and (was or {}).get("config") != (now or {}).get("config"):
        names[1] = "another config"
    return _row(collection, "embedding function", *names)


def _function_name(function: Any) -> str:
    if not isinstance(function, Mapping):
        return "none"
    return "legacy" if function.get("type") == "legacy" else str(function.get("name", "none"))


def _switches(source: CollectionInfo, target: CollectionInfo) -> list[dict[str, Any]]:
    """Which indexes of metadata and documents are on: a row for each that is not as usual, or that differs."""
    if source.schema is None or target.schema is None:
        return []
    was, now = _enabled(source.schema), _enabled(target.schema)
    usual = [{(kind, index): on for (key, kind, index), on in side.items() if key == ""} for side in (was, now)]
    rows = []
    for place in sorted({*was, *now}):
        key, kind, index = place
        if key in ("", VECTORS):
            continue
        pair = [side.get(place, fallback.get((kind, index))) for side, fallback in zip((was, now), usual, strict=True)]
        normal = _DOCUMENTS[index] if key == "#document" and index in _DOCUMENTS else usual[0].get((kind, index))
        if pair[0] != pair[1] or pair[0] != normal:
            shown = [None if on is None else "on" if on else "off" for on in pair]
            why = "the target does not say" if pair[1] is None else ""
            rows.append(_row(source.name, f"{index} of {key}", shown[0], shown[1], why))
    return rows


_DOCUMENTS = {"fts_index": True, "string_inverted_index": False}  # of `#document`, where nobody chose


def _enabled(schema: Mapping[str, Any]) -> dict[tuple[str, str, str], bool]:
    """(key, or "" for the defaults; type of value; index) → whether it is on."""
    sides = {"": schema.get("defaults") or {}, **(schema.get("keys") or {})}
    return {
        (key, kind, index): bool(state.get("enabled"))
        for key, types in sides.items()
        for kind, indexes in types.items()
        for index, state in indexes.items()
    }


def _metadata(source: CollectionInfo, target: CollectionInfo) -> list[dict[str, Any]]:
    was, now = source.metadata or {}, target.metadata or {}
    different = {key: detail for _, key, detail in metadata_differences(was, now)}
    rows = []
    for key in sorted({*was, *now, *different}):
        why = "turned into configuration" if key in HNSW_METADATA and key not in now else ""
        equal = was.get(key) if key not in different else now.get(key)
        rows.append(_row(source.name, f"metadata {key}", was.get(key), equal, why))
    return rows


# The full-text index, asked for some documents: an import that counts right may leave `where_document` blind

CHECK = "documents that full-text search misses"
_ASKED = 20  # documents a collection
_LENGTH = 24  # characters asked for; an index of trigrams answers from three on


def judge_fulltext(run: RunRecord, store: ClientStore, names: Sequence[str]) -> None:
    """Each of some documents of every target collection must be found by a part of its own text."""
    asked, missed, refused = 0, [], []
    for name in names:
        try:
            found, absent = probe_fulltext(store, name)
        except WorldError as error:  # a schema may have switched the index off
            refused.append(f"{name}: {error.what}")
            continue
        asked += found + len(absent)
        missed += [{"collection": name, "id": chunk} for chunk in absent]
    verdict = Verdict.FAIL if missed else Verdict.PASS if asked else Verdict.NOT_EXERCISED
    run.result.checks[:] = [check for check in run.result.checks if check.name != CHECK]  # a cell may run twice
    run.check(
        CHECK, verdict, measured=len(missed), threshold=0, unit="documents", reason=ReasonCode.FULLTEXT_MISSES,
        detail="; ".join([f"{asked:,} documents asked for by a part of their text", *refused[:3]]), offenders=len(missed),
        ids=missed[:20],
    )  # fmt: skip


def probe_fulltext(store: ClientStore, name: str) -> tuple[int, list[str]]:
    """How many of some documents are found by a part of their text, and the ids of those that are not."""
    batch = store.read(name, store.some_ids(name, _ASKED), embeddings=False)
    found, missed = 0, []
    for chunk, document in zip(batch.ids, batch.documents, strict=True):
        piece = (document or "").partition("\0")[0][:_LENGTH]
        if len(piece) < 3:
            continue
        if store.document_contains(name, chunk, piece):
            found += 1
        else:
            missed.append(chunk)
    return found, missed
