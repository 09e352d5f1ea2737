"""Test whether one URL lets writes and reads through, and remove what the test wrote.

A collection with a name of its own is created. Where that is refused nothing was written, and the other writes address a
collection id that does not exist: a fence refuses them all the same, and Chroma, if they reach it, has nothing to change. Where
it gets through, they are tried on the new collection, and all of it is removed. These, and a restore that the operator
orders, are the only writes that a source ever sees. Requests are raw, so that API v1 gets the same questions.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from helpers.errors import RunbookError, Terminal, Transient, one_line
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.stores import Closing
from helpers.stores.wire import Session, heartbeat, json_of, request_headers, resolved

PREFIX = "runbook-fence-probe-"
_OURS = re.compile(re.escape(PREFIX) + r"[0-9a-f]{32}")
WRITTEN, REFUSED, REACHED, FAILED, SILENT = "written", "refused", "reached", "failed", "no answer"
_CLOSED = re.compile(
    r"read[- ]?only|no longer (accept|support|tak|allow)|(writes?|writing) (is|are|has been|have been|was|were) "
    r"(disabled|closed|turned off|stopped|no longer)|disabled writes|shut(ting)? down|wind(ing)?[- ]?down|sunset|"
    r"retired|decommission|discontinued",
    re.IGNORECASE,
)
_TIMES = 3  # attempts at a removal
_PAGE = 100  # collections in one answer


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The result of one request.

    `outcome`: `written` (or, of a read, answered), `refused` by something in front of Chroma, `reached` (Chroma
    itself judged it), `failed` (a server error), `no answer`.
    """

    action: str
    outcome: str
    status: int = 0
    message: str = ""

    @property
    def answered(self) -> bool:
        return self.outcome == WRITTEN

    @property
    def says_closed(self) -> bool:
        """Whether the refusal tells that the database takes no writes at all: 405, 410, or in words."""
        return self.outcome in (REFUSED, REACHED, FAILED) and (
            self.status in (405, 410) or _CLOSED.search(self.message) is not None
        )


def answer_text(answer: ProbeAnswer) -> str:
    """One answer for people: `add was refused (403): …`."""
    words = {
        WRITTEN: "got through",
        REACHED: "reached Chroma",
        REFUSED: "was refused",
        FAILED: "failed",
        SILENT: "got no answer",
    }
    status = f" ({answer.status})" if answer.status else ""
    return f"{answer.action} {words[answer.outcome]}{status}" + (f": {answer.message}" if answer.message else "")


def closed_by_itself(answers: Sequence[ProbeAnswer]) -> bool:
    """Whether all writes were refused to everybody: not only to this key, and not by a limit of one request."""
    return bool(answers) and all(not a.answered and a.says_closed for a in answers)


def refused_to_us(answers: Sequence[ProbeAnswer]) -> bool:
    """Whether all writes were refused to our key, whatever others may do."""
    return bool(answers) and all(a.outcome == REFUSED or a.says_closed for a in answers)


class ServerProbe(Closing):
    """A probe of one URL of the source's server, with the source's tenant, database, headers and time-out."""

    def __init__(self, url: str, endpoint: Endpoint, role: str, *, host: str = "") -> None:
        self.url, self.role, self.endpoint = url, role, endpoint
        self.left_behind: list[str] = []
        headers = dict(request_headers(endpoint, "source"))
        if host:  # one of several servers on a port
            headers |= {"Host": host}
        self._http = Session(
            base_url=url, headers=headers, verify=endpoint.verify_tls, timeout=endpoint.timeout_seconds
        )
        self._place: Endpoint | None = None
        self._v1: bool | None = {"v1": True, "v2": False}.get(endpoint.api)

    def close(self) -> None:
        self._http.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def reads(self) -> list[ProbeAnswer]:
        """List, count, get and query, as clients do; get and query on the first collection with chunks."""
        listed = self._ask("list collections", "GET", "")
        if not listed.answered:
            return [listed]
        counts = self.counts()
        answers = [listed, ProbeAnswer("count", WRITTEN, 200, f"{sum(counts.values())} chunks")]
        full = next((name for name, count in sorted(counts.items()) if count), None)
        if full is None:
            return answers
        body_of_get = {"limit": 1, "include": ["embeddings"]}
        answers.append(self._ask("get", "POST", f"/{full}/get", body_of_get))
        embeddings = self._json("POST", f"/{full}/get", body_of_get).get("embeddings") if answers[-1].answered else None
        rows = [] if embeddings is None else embeddings[:1]
        vectors = [[float(x) for x in row] for row in rows if row is not None]
        if vectors:
            body = {"query_embeddings": vectors, "n_results": 1, "include": ["distances"]}
            answers.append(self._ask("query", "POST", f"/{full}/query", body))
        return answers

    def answers_at_all(self) -> bool:
        """Whether something that looks like Chroma answers here."""
        try:
            return heartbeat(lambda path: self._http.get(f"/api/{path}", timeout=3))[0] is not None
        except (httpx.HTTPError, RunbookError):
            return False

    def counts(self) -> dict[str, int]:
        """Chunks by collection id. Raises `EnvironmentFailure` where that cannot be read."""
        return {str(row["id"]): int(self._json("GET", f"/{row['id']}/count")) for row in self._listed()}

    def ids(self) -> dict[str, str]:
        """Collection ids by name. Raises `EnvironmentFailure` where that cannot be read."""
        return {str(row["name"]): str(row["id"]) for row in self._listed()}

    def _listed(self) -> list[dict[str, Any]]:
        """Every collection, page by page: a server with quotas silently cuts a list without a limit."""
        collections: dict[str, dict[str, Any]] = {}
        while True:
            page = self._json("GET", "", at=len(collections))
            new = {str(row["id"]): row for row in page if str(row["id"]) not in collections}
            if not new:
                return list(collections.values())
            collections |= new

    # -- writing -------------------------------------------------------------------------------------------------------

    def writes(self) -> list[ProbeAnswer]:
        """Try every kind of write. What got through is removed before this returns, or named in `left_behind`."""
        name, created = self._create({"runbook": "write probe of the fence; may be deleted"})
        try:
            target = self._id_of(name) if created.answered else str(uuid.uuid4())
            return [created, *self._records(target or str(uuid.uuid4()), name)]
        finally:
            if created.answered:
                self.remove(name)

    def _create(self, metadata: dict[str, str] | None) -> tuple[str, ProbeAnswer]:
        name = f"{PREFIX}{uuid.uuid4().hex}"
        created = self._ask("create collection", "POST", "", {"name": name, "metadata": metadata})
        if created.outcome in (FAILED, SILENT) and self._id_of(name):  # an error does not mean "not written"
            created = ProbeAnswer(created.action, WRITTEN, created.status, f"written in spite of: {created.message}")
        return name, created

    def _records(self, collection: str, name: str) -> list[ProbeAnswer]:
        chunk = {
            "ids": ["probe"], "embeddings": [[1.0, 0.0]], "documents": ["probe"], "metadatas": [{"probe": 1}], "uris": None,
        }  # fmt: skip
        return [
            self._ask("add", "POST", f"/{collection}/add", chunk),
            self._ask("update", "POST", f"/{collection}/update", chunk),
            self._ask("upsert", "POST", f"/{collection}/upsert", chunk),
            self._ask("delete", "POST", f"/{collection}/delete", {"ids": ["probe"]}),
            self._ask("change collection", "PUT", f"/{collection}", {"new_metadata": {"probe": 2}}),
            self._ask("delete collection", "DELETE", f"/{name}"),
        ]

    def no_writes(self) -> list[ProbeAnswer]:
        """Test whether the source takes writes without any fence, with the least request, so that nothing changes if it does.

        It creates a collection of its own, which is removed again (or named in `left_behind`) where it gets through, and else
        deletes an id that no chunk has, in the first existing collection.
        """
        name, created = self._create(None)
        if created.answered:
            self.remove(name)
            return [created]
        existing = sorted(str(row["id"]) for row in self._listed())[:1]
        return [created, *(self._ask("delete", "POST", f"/{i}/delete", {"ids": [name]}) for i in existing)]

    def sweep(self) -> list[str]:
        """Remove probe collections that a killed probe left behind. Gives their names."""
        names = [str(row["name"]) for row in self._listed() if _OURS.fullmatch(str(row["name"]))]
        for name in names:
            self.remove(name)
        return names

    def remove(self, name: str) -> None:
        """Remove one of our own collections, records first (chroma-facts 18), and check that it is gone."""
        assert _OURS.fullmatch(name), name
        for _ in range(_TIMES):
            collection_id = self._id_of(name)
            if not collection_id:
                self.left_behind = [n for n in self.left_behind if n != name]
                return
            self._ask("delete", "POST", f"/{collection_id}/delete", {"ids": ["probe"]})
            self._ask("delete collection", "DELETE", f"/{name}")
        self.left_behind.append(name)

    def _id_of(self, name: str) -> str:
        try:
            return next((str(row["id"]) for row in self._listed() if row["name"] == name), "")
        except (Terminal, Transient):
            return ""

    # -- requests ------------------------------------------------------------------------------------------------------

    def _ask(self, action: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> ProbeAnswer:
        try:
            answer = self._send(method, path, body)
        except httpx.HTTPError as error:
            return ProbeAnswer(action, SILENT, 0, one_line(str(error) or type(error).__name__, 200))
        message = "" if answer.is_success else one_line(answer.text, 200)
        return ProbeAnswer(action, _outcome(answer, v1=bool(self._v1)), answer.status_code, message)

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, at: int | None = None) -> Any:
        """The JSON of an answer; of a list, the page that begins at `at`."""
        try:
            answer = self._send(method, path, body, {} if at is None else {"limit": str(_PAGE), "offset": str(at)})
        except httpx.HTTPError as error:
            raise Transient(
                ReasonCode.UNREACHABLE, f"no answer: {error or type(error).__name__}", where=f"{self.role} {self.url}",
                next_step="Check that the server and the proxy in front of it run.",
            ) from error  # fmt: skip
        if not answer.is_success:
            raise Terminal(
                ReasonCode.REFUSED,
                f"answered {answer.status_code}: {one_line(answer.text, 200)}",
                where=f"{self.role} {self.url}",
            )
        return json_of(answer, where=f"{self.role} {self.url}")

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, parameters: Mapping[str, str] | None = None
    ) -> httpx.Response:
        endpoint = self._resolved()
        place = {"tenant": endpoint.tenant, "database": endpoint.database}
        if self._is_v1():
            root, query = "/api/v1/collections", {**place, **(parameters or {})}
        else:
            tenant, database = (quote(v, safe="") for v in place.values())
            root, query = f"/api/v2/tenants/{tenant}/databases/{database}/collections", dict(parameters or {})
        return self._http.request(
            method, root + path, params=query or None, json=body, headers={"Content-Type": "application/json"}
        )

    def _resolved(self) -> Endpoint:
        """The endpoint with the tenant and database of its key: elsewhere every write is refused, which proves nothing."""
        if self._place is None:
            if self._is_v1():
                self._place = self.endpoint
            else:
                place = f"{self.role} {self.url}"
                self._place = resolved(self.endpoint, "source", lambda path: self._http.get(f"/api/{path}"), place)
        return self._place

    def _is_v1(self) -> bool:
        if self._v1 is None:
            self._v1 = heartbeat(lambda path: self._http.get(f"/api/{path}"))[0] == "v1"
        return self._v1


def _outcome(answer: httpx.Response, *, v1: bool) -> str:
    if answer.is_success:
        return WRITTEN
    if answer.status_code in (401, 403, 405, 423) or "AuthorizationError" in answer.text:
        return REFUSED
    if answer.status_code in (502, 503, 504):
        return SILENT
    if answer.status_code >= 500:  # servers of 0.x answer so for a collection that they do not know
        return REACHED if v1 and "does not exist" in answer.text else FAILED
    return REACHED
