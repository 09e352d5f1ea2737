"""The rehearsal source: a generated Chroma database whose defects are all known.

Seven collections, 9,832 chunks, cosine, 1536 dimensions, about the topics of the runbook's queries. Ids, documents, metadata
and vectors are the same on any machine: every choice comes from a stable hash, never from `hash()` or a library's random
numbers. `expected_findings` says what a profile of it must report, computed from the plan alone.

Importing this module registers the embedding function, so that `query_texts` works on the sample in a fresh process.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter

from helpers.chunks import ChunkBatch, Metadata
from helpers.errors import Terminal, UsageError
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT
from helpers.reason_codes import ReasonCode
from helpers.stores.creation import RehearsalEmbedding
from helpers.stores.door import ClientAPI, embedded_client

SEED = 20251201
FULL = 9832
BATCH = 500
LEAST_DIMENSION = 24  # of a rehearsal: shorter vectors do not separate the words of the runbook's queries
DATE = "2025-11-30"
LONG = 100_000  # characters of a long document
NOTES = "sergio_personality_notes"
COLLECTIONS: dict[str, int] = {
    "openwebui_core": 3000,
    "openwebui_docs": 2100,
    "openwebui_functions": 1200,
    "openwebui_pipelines": 900,
    "openwebui_pain_points": 800,
    "openwebui_careers": 832,
    NOTES: 1000,
}
FIELDS = (
    "source", "source_file", "source_line", "author", "category", "language", "authenticity_score",
    "confidence_level", "disputed", "if_citation_uri",
)  # fmt: skip
# Defect → chunks of the full sample that have it. No chunk has two.
DEFECTS: dict[str, int] = {
    "missing source": 60, "missing source_file": 120, "missing source_line": 120, "missing author": 80,
    "missing category": 70, "missing language": 90, "missing authenticity_score": 50, "missing confidence_level": 60,
    "missing disputed": 110, "missing if_citation_uri": 200, "no metadata": 10,
    "score above one": 40, "score below zero": 24, "score as text": 30, "score as word": 20,
    "line as text": 30, "disputed as text": 15, "unknown confidence": 18, "unknown type": 14, "unknown language": 12,
    "empty category": 12, "bad citation": 16,
    "empty document": 12, "long document": 6, "unicode": 60, "with uri": 40,
    "zero vector": 5, "copied document": 45, "respaced document": 25,
}  # fmt: skip
NONE_DOCUMENTS, HUMOR, RHETORICAL, COLLIDING, COLLIDING_THRICE, UNUSUAL_IDS = 36, 800, 500, 150, 25, 8
_COPIES = ("copied document", "respaced document")

Place = tuple[str, int]  # collection, position in it


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: its heading and sentences about it, in English and Spanish."""

    heading: str
    titulo: str
    english: tuple[str, ...]
    spanish: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """The sentences of the sample, from `sample_text.json`. A slot in braces is filled from `slots`.

    Every collection has chunks on each of `query_topics`, the five queries of the runbook (Step 4). `unicode_lines` test what
    a careless pipeline breaks: right to left, CJK, combining marks, joined emoji, a soft hyphen.
    """

    query_topics: tuple[Topic, ...]
    neighbours: tuple[Topic, ...]
    careers: tuple[Topic, ...]
    pains: tuple[Topic, ...]
    notes: tuple[Topic, ...]
    jokes: tuple[str, ...]
    rhetoric: tuple[str, ...]
    slots: dict[str, tuple[str, ...]]
    unicode_lines: tuple[str, ...]
    authors: tuple[str, ...]
    categories: tuple[str, ...]
    traits: tuple[str, ...]
    devices: tuple[str, ...]
    humor_types: tuple[str, ...]
    frameworks: tuple[str, ...]


TEXTS = TypeAdapter(Texts).validate_json(Path(__file__).with_name("sample_text.json").read_bytes())


def write_sample(path: Path, chunks: int = FULL, dimension: int = 1536) -> Path:
    """Write the sample as an embedded Chroma directory at `path`, which must not exist or be empty; whole or not at all.

    Raises `UsageError("sample_too_small")` under 50 chunks and `Terminal("sample_path_in_use")`.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise Terminal(
            ReasonCode.SAMPLE_PATH_IN_USE, "the rehearsal source would overwrite something", where=str(path),
            next_step="Name a folder that does not exist yet.",
        )  # fmt: skip
    collection_counts(chunks)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with embedded_client(partial, DEFAULT_TENANT, DEFAULT_DATABASE) as client:
        write_sample_to(client, chunks, dimension)
    if path.exists():
        path.rmdir()
    partial.rename(path)
    return path


def write_sample_to(client: ClientAPI, chunks: int = FULL, dimension: int = 1536) -> None:
    """Write the sample through a client, of a server or a directory, that holds none of its collections."""
    open_collections = {
        name: client.create_collection(
            name,
            configuration={"hnsw": {"space": "cosine"}},
            embedding_function=RehearsalEmbedding(dimension),  # type: ignore[arg-type]  # texts, and no images
            metadata={"owner": "Integrations", "schema_version": 11, "rehearsal": True},
        )
        for name in collection_counts(chunks)
    }
    for name, batch in sample_batches(chunks, dimension):
        open_collections[name].add(
            ids=batch.ids,
            embeddings=batch.embeddings,
            documents=batch.documents,  # type: ignore[arg-type]  # chromadb stores None, its annotation does not say so
            metadatas=batch.metadatas,  # type: ignore[arg-type]
            uris=batch.uris if any(batch.uris) else None,  # type: ignore[arg-type]
        )


def sample_batches(chunks: int = FULL, dimension: int = 1536) -> Iterator[tuple[str, ChunkBatch]]:
    """Yield (collection, batch of at most 500 chunks) in the order of writing."""
    plan = _plan(chunks)
    embed = RehearsalEmbedding(dimension)
    for name, count in plan.counts.items():
        for start in range(0, count, BATCH):
            places = [(name, i) for i in range(start, min(start + BATCH, count))]
            documents = [_document(plan, place) for place in places]
            defects = [plan.defects.get(place, "") for place in places]
            # A chunk without a text has a vector about no topic, so that no query finds it.
            lost = [f"attachment {name} {place[1]} unreadable" for place in places]
            vectors = embed.vectors([d or lost[i] for i, d in enumerate(documents)])
            vectors[[i for i, defect in enumerate(defects) if defect == "zero vector"]] = 0.0
            ids = [_id(plan, place) for place in places]
            uris = [f"s3://rehearsal/{i}.txt" if d == "with uri" else None for i, d in zip(ids, defects, strict=True)]
            yield (
                name,
                ChunkBatch(
                    ids=ids,
                    documents=documents,
                    embeddings=vectors,
                    metadatas=[_metadata(plan, place) for place in places],
                    uris=uris,
                ),
            )


def collection_counts(chunks: int = FULL) -> dict[str, int]:
    """Collection → chunks, by largest remainder; at 9,832 the runbook's counts. Raises UsageError under 50 chunks."""
    if chunks < 50:
        raise UsageError(ReasonCode.SAMPLE_TOO_SMALL, f"a sample of {chunks} chunks", next_step="Ask for 50 or more.")
    counts = {name: chunks * full // FULL for name, full in COLLECTIONS.items()}
    by_remainder = sorted(COLLECTIONS, key=lambda name: -(chunks * COLLECTIONS[name] % FULL))
    for name in by_remainder[: chunks - sum(counts.values())]:
        counts[name] += 1
    return counts


def require_size(chunks: int, dimension: int) -> None:
    """Raise `UsageError("sample_too_small")` where a rehearsal on such a sample cannot end with GO."""
    collection_counts(chunks)
    if dimension < LEAST_DIMENSION:
        raise UsageError(
            ReasonCode.SAMPLE_TOO_SMALL,
            f"a rehearsal in {dimension} dimensions: its vectors are too short for the named queries to find their words",
            next_step=f"Ask for --dimension {LEAST_DIMENSION} or more.",
        )  # fmt: skip


def expected_findings(chunks: int = FULL) -> dict[str, int]:
    """Chunks by finding that the toolkit must report for the sample, named as in `Profile.findings`, and chunks by target."""
    plan = _plan(chunks)
    n = Counter(plan.defects.values())
    own = sum(_own_type(plan, (name, i)) is not None for name, count in plan.counts.items() for i in range(count))
    missing = {field: n[f"missing {field}"] + n["no metadata"] for field in FIELDS}
    missing |= {"collection_type": chunks - own, "source_collection": chunks}
    findings = {f"missing_{field}": count for field, count in missing.items()} | {
        "chunks": chunks,
        "out_of_range_authenticity_score": sum(
            n[f"score {how}"] for how in ("above one", "below zero", "as text", "as word")
        ),
        "out_of_range_source_line": n["line as text"],
        "wrong_type_disputed": n["disputed as text"],
        "unknown_value_confidence_level": n["unknown confidence"],
        "unknown_value_collection_type": n["unknown type"],
        "unknown_value_language": n["unknown language"],
        "unknown_value_category": n["empty category"],
        "unknown_value_if_citation_uri": n["bad citation"],
        "none_metadata": n["no metadata"],
        "none_documents": n["no document"],
        "empty_documents": n["empty document"],
        "long_documents": n["long document"],
        "uris": n["with uri"],
        "lost_vectors": 0,
        "nonfinite_vectors": 0,
        "zero_vectors": n["zero vector"],
        "duplicate_documents": n["copied document"],
        "duplicate_vectors": n["copied document"] + n["respaced document"],
        "colliding_ids": plan.colliding,
        "quarantined": n["no document"],
    }
    kinds = Counter(plan.kinds.values())
    targets = {"personality": plan.counts[NOTES], "rhetorical": kinds["rhetorical"], "humor": kinds["humor"]}
    targets["corpus"] = chunks - sum(targets.values()) - n["no document"]
    return findings | {f"target_sergio_{kind}": count for kind, count in targets.items()}


@dataclass(frozen=True, slots=True)
class _Plan:
    """The kind and defect of each chunk. `originals`: copied chunk → the chunk whose text it repeats."""

    counts: dict[str, int]
    kinds: dict[Place, str]
    defects: dict[Place, str]
    originals: dict[Place, Place]
    colliding: int
    colliding_thrice: int
    unusual: int


@lru_cache(maxsize=4)
def _plan(chunks: int) -> _Plan:
    counts = collection_counts(chunks)

    def scaled(full: int) -> int:
        return max(1, (full * chunks + FULL // 2) // FULL) if chunks >= 200 else full * chunks // FULL

    # The first chunks of each collection have no defect, so that every query of the runbook finds one in each.
    whole = len(TEXTS.query_topics)
    places = [(name, i) for name, count in counts.items() for i in range(whole, count)]
    places.sort(key=lambda p: hashlib.blake2b(f"{SEED}/{p[0]}/{p[1]}".encode(), digest_size=8).digest())
    six = [place for place in places if place[0] != NOTES]

    def take(pool: list[Place], count: int) -> list[Place]:
        taken = pool[:count]
        del pool[:count]
        return taken

    kinds = dict.fromkeys(take(six, scaled(HUMOR)), "humor")
    kinds |= dict.fromkeys(take(six, scaled(RHETORICAL)), "rhetorical")
    defects = dict.fromkeys(take(six, scaled(NONE_DOCUMENTS)), "no document")
    # From the other end, because at this end only notes are left.
    remaining = [place for place in reversed(places) if place not in kinds and place not in defects]
    originals: dict[Place, Place] = {}
    for defect, full in DEFECTS.items():
        chosen = take(remaining, scaled(full))
        defects |= dict.fromkeys(chosen, defect)
        if defect in _COPIES:
            originals |= dict(zip(chosen, take(remaining, len(chosen)), strict=True))
    return _Plan(counts, kinds, defects, originals, scaled(COLLIDING), scaled(COLLIDING_THRICE), scaled(UNUSUAL_IDS))


def _id(plan: _Plan, place: Place) -> str:
    """The id of a chunk. The first chunks of docs, and some of careers, have ids of core; the last notes have unusual ids."""
    name, i = place
    shared = {"openwebui_docs": plan.colliding, "openwebui_careers": plan.colliding_thrice}
    if i < shared.get(name, 0):
        name = "openwebui_core"
    if name == NOTES and i >= plan.counts[NOTES] - plan.unusual:
        odd = ("núcleo {}", "笔记:{}", "<b>{}</b>", "a/b/{}", '"{}"', "../{}", "{} 🙂", "Case-{}")
        return odd[i % len(odd)].format(i)
    return f"{name.removeprefix('openwebui_')}-{i:05d}"


def _random(*key: object) -> random.Random:
    """A separate random stream for each key. Use only `.random()`, the one method that Python promises not to change."""
    digest = hashlib.blake2b("/".join(map(str, (SEED, *key))).encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311  # nosec B311  sentences, not secrets


def _pick(rng: random.Random, options: tuple[str, ...]) -> str:
    return options[int(rng.random() * len(options))]


def _topic(place: Place) -> Topic:
    name, i = place
    own = {"openwebui_careers": TEXTS.careers, "openwebui_pain_points": TEXTS.pains, NOTES: TEXTS.notes * 4}
    topics = TEXTS.query_topics + own.get(name, ()) + TEXTS.neighbours
    return topics[i % len(topics)]


def _language(place: Place) -> str:
    rng = _random("language", *place)
    return "en" if place[1] < len(TEXTS.query_topics) else _pick(rng, ("en", "en", "en", "en", "es", "es", "es_en"))


def _document(plan: _Plan, place: Place) -> str | None:
    defect = plan.defects.get(place, "")
    if defect == "no document":
        return None
    if defect == "empty document":
        return ""
    if defect in _COPIES:
        original = _written(plan, plan.originals[place])
        return original if defect == "copied document" else original.replace(" ", "  ")
    return _written(plan, place)


def _written(plan: _Plan, place: Place) -> str:
    """A document: a heading, some sentences on the topic, and a unique reference."""
    rng = _random("document", *place)
    topic, language, defect = _topic(place), _language(place), plan.defects.get(place, "")
    heading = topic.titulo if language == "es" else topic.heading
    material = {"en": topic.english, "es": topic.spanish, "es_en": topic.english + topic.spanish}[language]
    voice = {"humor": TEXTS.jokes, "rhetorical": TEXTS.rhetoric}.get(plan.kinds.get(place, ""))
    sentences = [f"{heading}.", f"Ref {_id(plan, place)} in {place[0]}."]
    if voice:
        sentences.append(_filled(_pick(rng, voice).replace("{topic}", heading), rng))
    if defect == "unicode":
        sentences.append(_pick(rng, TEXTS.unicode_lines))
    wanted = 2 + int(12 * rng.random() ** 3)
    length = 0
    while wanted > 0 or (defect == "long document" and length < LONG):
        sentences.append(_filled(_pick(rng, material), rng))
        length += len(sentences[-1])
        wanted -= 1
    return " ".join(sentences)


def _filled(sentence: str, rng: random.Random) -> str:
    for slot, words in TEXTS.slots.items():
        sentence = sentence.replace("{" + slot + "}", _pick(rng, words))
    return sentence.replace("{number}", str(2 + int(88 * rng.random())))


def _own_type(plan: _Plan, place: Place) -> str | None:
    """The chunk's own collection_type: always for humor and rhetorical, sometimes for others, else None."""
    defect = plan.defects.get(place, "")
    if defect in ("unknown type", "no metadata"):
        return "essay" if defect == "unknown type" else None
    if place in plan.kinds:
        return plan.kinds[place]
    if place[0] == NOTES:
        return "personality" if place[1] % 2 else None
    return "corpus" if place[1] % 3 == 0 else None


def _metadata(plan: _Plan, place: Place) -> Metadata | None:
    """The old eleven fields without those that the defect removes, the extension fields, and keys that no schema names."""
    defect = plan.defects.get(place, "")
    if defect == "no metadata":
        return None
    rng = _random("metadata", *place)
    name, i = place
    score = rng.random() if i % 4 == 0 else round(0.5 + rng.random() / 2, 2)
    citation = f"if://citation/{_id(plan, place)}-{DATE}"
    metadata: Metadata = {
        "source": f"{name.replace('_', '/', 1)}",
        "source_file": f"{name}/{_topic(place).heading.lower().replace(' ', '_').replace(':', '')}.md",
        "source_line": 1 + int(900 * rng.random()),
        "author": _pick(rng, TEXTS.authors),
        "category": _pick(rng, TEXTS.categories),
        "language": _language(place),
        "authenticity_score": score,
        "confidence_level": "high" if score > 0.85 else "medium" if score > 0.6 else "low",
        "disputed": rng.random() < 0.04,
        "if_citation_uri": "" if i >= plan.counts[name] - plan.unusual else citation,
    }
    own = _own_type(plan, place)
    metadata |= {} if own is None else {"collection_type": own}
    metadata |= _extension(own, rng) | _extras(i, rng)
    metadata |= _WRONG.get(defect, {})
    metadata.pop(defect.removeprefix("missing "), None)
    return metadata


_WRONG: dict[str, Metadata] = {
    "score above one": {"authenticity_score": 1.2},
    "score below zero": {"authenticity_score": -0.25},
    "score as text": {"authenticity_score": "0.8"},
    "score as word": {"authenticity_score": "high"},
    "line as text": {"source_line": "3"},
    "disputed as text": {"disputed": "perhaps"},
    "unknown confidence": {"confidence_level": "certain"},
    "unknown language": {"language": "Spanish (Chile)"},
    "empty category": {"category": ""},
    "bad citation": {"if_citation_uri": "http://example.org/citation"},
}


def _extension(own: str | None, rng: random.Random) -> Metadata:
    if own == "personality":
        return {
            "big_five_trait": _pick(rng, TEXTS.traits),
            "trait_score": rng.random(),
            "related_frameworks": list(TEXTS.frameworks[: 1 + int(3 * rng.random())]),
        }
    if own == "rhetorical":
        return {"device_type": _pick(rng, TEXTS.devices), "frequency": _pick(rng, ("always", "often", "sometimes"))}
    if own == "humor":
        return {"humor_type": _pick(rng, TEXTS.humor_types), "effectiveness_rating": rng.random()}
    return {}


def _extras(i: int, rng: random.Random) -> Metadata:
    """Keys that the schema does not name and a migration must keep: every type of Chroma, with extreme values."""
    extras: Metadata = {"legacy_id": 2**53 + 1 + i if i % 10 == 0 else i, "reviewed": i % 5 == 0}
    if i % 2 == 0:
        extras["relevance"] = rng.random()
    if i % 3 == 1:
        extras["tags"] = [_pick(rng, TEXTS.categories), "año nuevo"]
    if i % 11 == 0:
        extras |= {"weights": [rng.random(), -0.5], "flags": [True, False], "pages": [i, i + 1]}
    if i % 13 == 0:
        extras["примечание 备注"] = _pick(rng, TEXTS.unicode_lines)
    return extras
