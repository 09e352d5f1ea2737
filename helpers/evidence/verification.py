"""`runbook verify`: whether a run's folder is what was sealed and signed, to the byte.

Nothing outside the folder is read, so a folder that was archived years ago is judged as it was on the day.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import RunbookError, one_line
from helpers.evidence import approvals, signing, signoffs, statement, verify_script
from helpers.evidence.seals import (
    BESIDE,
    BOUND,
    MOVES,
    WORK,
    after,
    binding,
    bound_by,
    chain,
    fallen,
    identity,
    knowing,
    logged,
    moved,
    other_identity,
    pushed,
    required,
    unbound,
)
from helpers.evidence.secret_scan import attestation, made_again, other_code, tree
from helpers.evidence.signing import ALLOWED, REVOKED, RUNNER
from helpers.evidence.statement import (
    CHANGING,
    FIRST,
    LEADS_OUT,
    SEALS,
    Seal,
    announced,
    changed,
    digest_of,
    listed,
    prefix_digests,
    read_seal,
    unsealable,
)
from helpers.formatting import count
from helpers.results import StepResult, contents, json_in, passed
from helpers.run import plan
from helpers.run.folders import REPOSITORY, RunPath, RunState
from helpers.run.plan import Step


@dataclass(slots=True)
class Verified:
    """What was found: `problems` and `notes` are lines that begin with the file, `newest` the newest seal's digest."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    newest: str = ""
    summary: str = ""


def verify(
    folder: Path,
    page: Callable[[RunState], str],
    expect: Sequence[str] = (),
    signers: Path | None = None,
    authority: Path | None = None,
) -> Verified:
    """Check every file, the chain of seals, every signature, and that results agree with the notebooks that claim them.

    `page` makes index.html. `expect` are digests of seals that were noted elsewhere, each of which must be in the chain.
    `signers` is a list of allowed signers from outside the folder that must allow each signature, too, those of the seals by
    `runbook-seal`.
    `authority` is the CA certificate of the time-stamping authority.
    """
    found = Verified()
    against = unsealable(folder)
    found.problems += (f"{name}: it {why}" for name, why in against.items())
    if LEADS_OUT in against.values():  # what is behind it is of another folder, or has no end
        return found
    chain = _chain(folder, found)
    found.problems += _expected(chain, expect, found)
    if chain:
        newest = chain[-1]
        found.newest = newest.digest
        run = knowing(RunState(folder.name, folder, folder, judged=True), chain)
        for lines in (
            _announced(chain, found), _files(folder, newest, against), _audit_log(folder, chain, found),
            _work(folder, chain, found), _history(folder, chain, found), _binding(folder, chain, found), _as_bound(run, chain),
            _custody(chain, signers, found), _times(chain, authority, found), _pushed(folder, chain, found),
            _verdicts(folder, chain), _notebooks(folder, found), _parameters(run, found), _signatures(run, found, signers),
            _derived(run, newest, page, found),
        ):  # fmt: skip
            try:
                found.problems += lines
            except (
                RunbookError,
                OSError,
                ValueError,
                LookupError,
                TypeError,
                AttributeError,
                ArithmeticError,
            ) as error:
                found.problems.append(f"{error}")  # of a forged file; the other problems are still listed
        statements = len(list((folder / RunPath.SIGNOFFS).glob("*.json")))
        found.summary = f"{count(len(newest.subjects), 'file')}, {len(chain)} seals, {statements} signatures"
    return found


def _chain(folder: Path, found: Verified) -> list[Seal]:
    """The seals; whatever is wrong with their chain is a problem, and the newest is compared with VERIFY.txt."""
    paths = sorted(path for path in (folder / SEALS).glob("*") if path.suffix not in BESIDE)
    chain: list[Seal] = []
    for path in (folder / SEALS).glob("*"):
        if path.suffix in BESIDE and not (path.stem.endswith(".json") and path.with_suffix("").is_file()):
            found.problems.append(f"seals/{path.name}: it belongs to a seal that is not here")
        elif path.suffix in BESIDE and path.is_dir():
            found.problems.append(f"seals/{path.name}: it is not a seal")
    for path in paths:
        try:
            seal = read_seal(path)
        except (OSError, ValueError) as error:
            found.problems.append(f"seals/{path.name}: {error}")
            continue
        if seal.number != len(chain) + 1 or seal.previous != (chain[-1].digest if chain else FIRST):
            found.problems.append(f"{seal.name}: it does not follow the seal before it")
            if seal.previous_name != FIRST:
                found.problems.append(f"{seal.previous_name}: missing, or not the one that {seal.name} names")
        chain.append(seal)
    if not paths:
        found.problems.append("seals/: there is no seal; the run was not sealed")
    elif chain:
        path = folder / verify_script.NAME
        text = _contents(path).decode(errors="replace")
        said = verify_script.NEWEST.search(text)
        if said is None:
            found.problems.append(f"{verify_script.NAME}: it names no newest seal")
        elif (said["digest"], said["name"]) != (chain[-1].digest, chain[-1].name):
            found.problems.append(
                f"{one_line(said['name'], 100)}: missing, or not the newest seal as {verify_script.NAME} names it"
            )
    return chain


def _contents(path: Path) -> bytes:
    try:
        return contents(path)
    except (OSError, ValueError):  # named by `unsealable`, or as missing
        return b""


def _files(folder: Path, newest: Seal, against: Mapping[str, str]) -> Iterator[str]:
    sealed = {*newest.subjects, *newest.prefixes}
    for name in changed(folder, newest, against):
        yield f"{name}: {'changed' if (folder / name).exists() else 'missing'} since seal {newest.number}"
    present = {*listed(folder)} - {*against}
    for name, lines in statement.added(folder, newest).items():
        yield f"{name}: {count(lines, 'line')} added after seal {newest.number}, which no seal covers"
    for path in sorted(path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())):
        name = path.relative_to(folder).as_posix()
        if name not in statement.MAY_BE_EMPTY and not name.startswith(f"{RunPath.EARLIER}/"):
            yield f"{name}: an empty folder, which no seal covers"
    for name in sorted(present - sealed):
        yield f"{name}: not sealed; it was added after seal {newest.number}"


def _parameters(run: RunState, found: Verified) -> Iterator[str]:
    """run.json says which parameters.yaml is the run's, and what of it was changed by whom; the audit log says the same."""
    facts, path = run.facts, run.reports / RunPath.PARAMETERS
    if facts.get("parameters_sha256") not in (None, digest_of(path)):
        yield f"{RunPath.PARAMETERS}: it is not the one that {RunPath.RUN} names"
    told = [
        e["facts"].get("names") for e in audit.entries(run.reports / audit.NAME) if e["action"] == "parameters changed"
    ]
    noted = {key for change in facts.get("changes", []) for key in change["from"]}
    for key in sorted(noted ^ {key for names in told for key in names or ()}):
        yield f"{RunPath.RUN}: a change of {one_line(key, 80)} is named {'here' if key in noted else f'in {audit.NAME}'} only"


def _work(folder: Path, chain: Sequence[Seal], found: Verified) -> Iterator[str]:
    """Each file is what the newest line of the log that names it says; of an older toolkit's run, each result and page."""
    newest = chain[-1]
    if WORK not in newest.predicate:
        return
    said, every = audit.logged_files(folder, statement.trust(chain)), not audit.is_older(folder)
    if every and not said.complete:
        yield f"{audit.NAME}: it has not the line with which the run began"
    for name in said.unnamed(newest.subjects, every=every):
        yield f"{name}: {audit.NAME} names no such file"
    for name in said.missing({*newest.subjects, *listed(folder)}):
        yield f"{name}: {audit.NAME} names it, and it is gone"
    for name in said.unclaimed:
        found.notes.append(
            f"{name}: no line named it before it was set aside: a killed step left it, or it is nobody's"
        )


def _audit_log(folder: Path, chain: Sequence[Seal], found: Verified) -> Iterator[str]:
    broken = audit.check(folder / audit.NAME)
    if broken is not None:
        yield f"{audit.NAME}: line {broken.line}: {broken.why}"
    for number, by in audit.closed(audit.lines_of(folder / audit.NAME)).items():
        found.notes.append(
            f"{audit.NAME}: line {number}: cut short, or added by somebody; it proves nothing, as line {by} says"
        )
    trust = statement.trust(chain)
    yield from (f"{audit.NAME}: {line}" for line in made_again(folder, chain, trust))
    if trust is not None:
        loose = list(audit.unsigned(folder / audit.NAME, trust))
        for line in loose[: audit.MOST_FORGED]:
            yield f"{audit.NAME}: line {line}: it is not signed by the key that the seals name, and proves nothing"
        if (more := len(loose) - audit.MOST_FORGED) > 0:
            yield (
                f"{audit.NAME}: {count(more, 'line')} from line {loose[audit.MOST_FORGED]} on: not signed by that key either, or "
                f"not checked: behind {audit.MOST_FORGED} signatures that do not fit, no line proves anything"
            )
    if trust is None or trust.since:
        unsigned = [str(seal.number) for seal in chain if not seal.predicate.get(audit.LOG_KEY)]
        found.notes.append(
            f"{audit.NAME}: its lines before seal {unsigned[-1]} are chained, not signed: an older toolkit wrote them, "
            "or one without ssh-keygen"
        )


def _history(folder: Path, chain: list[Seal], found: Verified) -> Iterator[str]:
    """Between two seals a file may move into `earlier/`, or be one that the toolkit itself writes again, as the log says."""
    log = logged(folder, chain, statement.trust(chain))
    logs = {name for seal in chain for name in seal.prefixes}
    were = {n: prefix_digests(folder / n, (s.prefixes[n][0] for s in chain if n in s.prefixes)) for n in logs}
    for at, (one, two) in enumerate(pairwise(chain), start=1):
        since = log[at]
        named = announced(since)
        unnamed = set()
        for name, digest in one.subjects.items():
            now = two.subjects.get(name, "")
            if now == digest:
                continue
            if moved(one, name, two.subjects, since):
                if MOVES not in one.predicate:
                    unnamed.add(name)
            elif name not in CHANGING:
                yield f"{name}: changed between seal {one.number} and seal {two.number}"
            elif RUNNER in one.predicate and (name, now) not in named:
                yield f"{name}: changed between seal {one.number} and seal {two.number}, and {audit.NAME} names no such change"
        for name, (length, digest) in one.prefixes.items():  # the newest seal's are looked at with its other files
            if were[name].get(length) != digest:
                yield f"{name}: not what it was at seal {one.number}"
        yield from (f"{two.name}: {why}" for why in _other_signers(folder, one, two, log, at))
        if unnamed:
            found.notes.append(
                f"{two.name}: {count(len(unnamed), 'file')} moved below earlier/ since seal {one.number}, which an older "
                f"toolkit set; its log names no moves: {', '.join(sorted(unnamed)[:3])}"
            )
        if datetime.fromisoformat(two.created) < datetime.fromisoformat(one.created):
            yield f"{two.name}: its time, {two.created}, is before that of seal {one.number}, {one.created}"


def _other_signers(
    folder: Path, one: Seal, two: Seal, log: Sequence[Sequence[dict[str, Any]]], at: int
) -> Iterator[str]:
    """Who may sign is another list than at the seal before: narrower, or one that a resume ordered, as the log said by then."""
    if ALLOWED not in one.subjects or all(
        one.subjects.get(n) == two.subjects.get(n) for n in (ALLOWED, ALLOWED + REVOKED)
    ):
        return
    if ALLOWED not in two.subjects:
        yield f"it has no list of who may sign, and seal {one.number} has one"
        return
    was, now = (statement.signers_of(folder, seal) for seal in (one, two))
    if was is None or now is None:
        if statement.LISTS in one.predicate:  # else of an older toolkit, which kept no list that it replaced
            yield f"its list of who may sign, or that of seal {one.number}, is not here"
        return
    lists = audit.signer_lists(now)
    told = [entry for part in log[: at + 1] for entry in part]
    while told and told[-1]["action"] != audit.TAKEN:
        told.pop()
    if signing.ordered(told) != audit.digest_of_lists(lists) and not signing.narrower(lists, audit.signer_lists(was)):
        yield f"it lets others sign than seal {one.number}, and {audit.NAME} names no resume that ordered it"


def _binding(folder: Path, chain: list[Seal], found: Verified) -> Iterator[str]:
    """Every seal binds what the first one bound, but for changes that the log names; what a run is, as run.json says it, and who
    has to sign never change."""
    facts = signing.statement_of(folder / RunPath.RUN)
    first, before = chain[0], chain[0]
    if names := other_identity(first, {**identity(facts), "directory": facts.get("directory")}):
        yield f"{RunPath.RUN}: {', '.join(names)}: not as seal 1 says"
    for seal in chain[1:]:
        now = {**seal.predicate["run"], "directory": seal.predicate.get("directory", first.predicate.get("directory"))}
        if names := other_identity(first, now):
            yield f"{seal.name}: {', '.join(names)} of the run: not as seal 1 says"
    log = audit.entries(folder / audit.NAME, statement.trust(chain), ("parameters changed",))
    for seal in chain[1:]:
        if BOUND not in first.predicate or BOUND not in seal.predicate:
            if seal.predicate["run"].get("binding") != before.predicate["run"].get("binding"):
                found.notes.append(
                    f"{seal.name}: the parameters that bind the run, or the toolkit, are not those of seal {before.number}"
                )
        elif seal.predicate[BOUND] != before.predicate.get(BOUND):
            against, told = unbound(first, seal.predicate[BOUND], log)
            if against:
                gone = fallen(first, seal.predicate["approvals"])
                yield f"{seal.name}: {', '.join(against)}: not as seal 1 bound it{f' (approvals that fell: {gone})' * bool(gone)}"
            if told:
                found.notes.append(f"{seal.name}: changed since seal 1, as {audit.NAME} says: {', '.join(told)}")
        before = seal


def _as_bound(run: RunState, chain: Sequence[Seal]) -> Iterator[str]:
    """What each seal has, each later one has; and each that covers the parameters which are here says what they say."""
    for one, two in pairwise(chain):
        if lacks := sorted(k for k, v in one.predicate.items() if v is not None and two.predicate.get(k) is None):
            yield f"{two.name}: it lacks what seal {one.number} has: {', '.join(one_line(part, 80) for part in lacks)}"
    rules, digest, code = run.parameters, digest_of(run.reports / RunPath.PARAMETERS), tree(REPOSITORY / "helpers")
    parts: dict[str, Mapping[str, Any]] = {
        BOUND: bound_by(rules),
        "approvals": required(rules),
        "source": rules.source.model_dump(mode="json", exclude_none=True),
        "target": rules.target.model_dump(mode="json", exclude_none=True),
    }
    for seal in chain:
        if seal.subjects.get(RunPath.PARAMETERS) != digest:
            continue
        # A key that one of two toolkits does not know is not compared.
        same = seal.predicate["helpers"] == code
        for part, now in parts.items():
            says = seal.predicate.get(part, {})
            wrong = {key for key in says.keys() & now.keys() if says[key] != now[key]}
            wrong |= says.keys() ^ now.keys() if same and part in seal.predicate else set()
            if wrong:
                keys = one_line(", ".join(sorted(wrong)), 200)
                yield f"{seal.name}: {part}: {keys}: not as {RunPath.PARAMETERS} says"
        if same and seal.predicate["run"].get("binding") != binding(rules):
            yield f"{seal.name}: binding: not as {RunPath.PARAMETERS} says"


def _verdicts(folder: Path, chain: Sequence[Seal]) -> Iterator[str]:
    """What each seal says of the steps, and the decision, is what the results say that it covers, wherever these are now."""
    read: dict[str, tuple[str, str, str]] = {}  # verdict, error and decision by digest
    for (_, digest), path in statement.kept(folder, RunPath.RESULTS).items():
        with suppress(OSError, ValueError, KeyError, TypeError, RunbookError):  # `_notebooks` names it
            result = StepResult.read(path)
            error = str(result.error["code"]) if result.error else ""
            read[digest] = str(result.verdict), error, str(result.facts.get("decision", ""))
    for seal in chain:
        says = seal.predicate["verdicts"]
        sealed = {Path(name).stem: d for name, d in seal.subjects.items() if re.fullmatch(r"results/[^/]+\.json", name)}
        wrong = [step for step, digest in sealed.items() if digest in read
                 and (says.get(step, {}).get("verdict"), says.get(step, {}).get("error")) != read[digest][:2]]  # fmt: skip
        wrong += [step for step, about in says.items() if step not in sealed and about.get("result") not in read]
        for step in sorted(wrong):
            yield f"{seal.name}: what it says of step {one_line(step, 80)} is not what results/{one_line(step, 80)}.json says"
        digest = sealed.get(Step.REVIEW, str(says.get(Step.REVIEW, {}).get("result", "")))
        if digest in {"", *read} and (decision := read.get(digest, ("", "", ""))[2]) != seal.predicate["decision"]:
            said = one_line(str(seal.predicate["decision"]), 80)
            yield f"{seal.name}: it says the decision {said or 'open'}, and results/24.json {one_line(decision, 80) or 'none'}"


def _announced(chain: list[Seal], found: Verified) -> Iterator[str]:
    """Notes: what the audit log may name and an auditor must know (other code, another decision, other signers or parameters),
    and what the search for secrets left out."""
    for one, two in pairwise(chain):
        found.notes += other_code(one, two)
        before, now = (str(seal.predicate["decision"]) for seal in (one, two))
        if before not in ("", now):
            found.notes.append(f"{two.name}: the decision is {now or 'open'}; at seal {one.number} it was {before}")
        for name in sorted(CHANGING - {RunPath.RUN}):
            if name in one.subjects and one.subjects[name] != two.subjects.get(name):
                who = ", so others may sign, or sign otherwise" if name.startswith(ALLOWED) else ""
                what = f"changed between seal {one.number} and seal {two.number}, as {audit.NAME} says{who}"
                found.notes.append(f"{name}: {what}")
    for what, why in chain[-1].predicate.get("secrets", {}).get("unknown", {}).items():
        left_out = f"{one_line(str(what), 200)} {one_line(str(why), 200)}"
        found.notes.append(f"{chain[-1].name}: searched for secrets, but {left_out}")
    yield from ()


def _expected(chain: list[Seal], expect: Sequence[str], found: Verified) -> Iterator[str]:
    """The digests that were noted elsewhere are those of seals in the chain; what was sealed later is a note."""
    digests = [seal.digest for seal in chain]
    for digest in expect:
        if digest not in digests:
            yield f"seals/: no seal has the expected SHA-256 {one_line(digest, 64)}: these are not the seals that were made then"
        elif later := chain[digests.index(digest) + 1 :]:
            after_what = ", ".join(f"{seal.number} ({_occasion(seal)})" for seal in later)
            found.notes.append(
                f"{chain[digests.index(digest)].name}: is the expected one; seals made later: {after_what}"
            )


def _occasion(seal: Seal) -> str:
    return f"after step {seal.after}" if seal.after else "when a command ended"


def _custody(chain: list[Seal], signers: Path | None, found: Verified) -> Iterator[str]:
    """Each seal is signed by the runner that it names; a change of the runner's key is named."""
    before = ""
    for seal, key, wrong in signing.custody(chain, signers=signers):
        if wrong:
            yield wrong
        if not key:
            continue
        runner = seal.predicate[RUNNER]
        yield from _envelope(seal, runner, found)
        if key != before and not wrong:
            changed_hands = ", not with the key of the seal before" * bool(before)
            who = one_line(runner["principal"], 80)
            found.notes.append(f"{seal.name}: signed with the runner's key {key} of {who}{changed_hands}")
            before = key
    if unsigned := [str(s.number) for s in chain if RUNNER not in s.predicate or "unsigned" in s.predicate[RUNNER]]:
        found.notes.append(f"seals/: not signed: {', '.join(unsigned)}")
        if signers is not None:
            yield f"seals/: not signed, so that nobody can vouch for them: {', '.join(unsigned)}"


def _pushed(folder: Path, chain: list[Seal], found: Verified) -> Iterator[str]:
    """What the log says of digests that were given to a place outside: of these seals, and which are not there."""
    digests = {seal.digest: seal for seal in chain}
    told = pushed(folder)
    for digest, why in told.items():
        if digest not in digests:
            yield f"{audit.NAME}: the digest {one_line(digest, 64)} was pushed, and no seal has it"
        elif why:
            found.notes.append(f"{digests[digest].name}: its digest was not pushed: {one_line(why, 200)}")
    if told:
        outside = [str(seal.number) for seal in chain if told.get(seal.digest) == ""]
        found.notes.append(f"seals/: their digests were pushed: {', '.join(outside) or 'none'}")


def _envelope(seal: Seal, runner: Mapping[str, str], found: Verified) -> Iterator[str]:
    """The DSSE envelope beside a seal says what the seal says, and is signed by the same key."""
    path = seal.path.with_name(seal.path.name + statement.ENVELOPE)
    if "envelope" not in runner:
        if why := runner.get("no_envelope"):
            found.notes.append(f"{seal.name}: without a DSSE envelope: {one_line(why, 200)}")
        if path.exists():
            yield f"{seal.name}{statement.ENVELOPE}: the seal names no envelope"
        return
    payload = attestation(seal)
    try:
        data = contents(path)
        signature = base64.b64decode(json_in(data)["signatures"][0]["sig"])
        as_sealed = statement.envelope(payload, signature, runner["fingerprint"]) == data
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        as_sealed = False
    if not as_sealed:
        yield f"{seal.name}{statement.ENVELOPE}: {'it does not say what its seal says' if path.is_file() else 'missing'}"
    elif not signing.raw_signed(statement.pre_authentication(payload), signature, runner["key"]):
        yield f"{seal.name}{statement.ENVELOPE}: the signature does not fit"


def _times(chain: list[Seal], authority: Path | None, found: Verified) -> Iterator[str]:
    """Each token of a time-stamping authority is for its seal, and its time is not before that of the seal."""
    without = [seal.number for seal in chain if not signing.token(seal.path).is_file()]
    for seal in chain:
        path = signing.token(seal.path)
        if seal.number in without:
            continue
        try:
            when = signing.stamped(seal.path, path, authority)
        except RunbookError as error:
            yield f"seals/{path.name}: {error.what}"
            continue
        if when < datetime.fromisoformat(seal.created) - signoffs.CLOCKS_DIFFER:
            yield f"seals/{path.name}: its time, {when:%Y-%m-%d %H:%M:%S} UTC, is before that of the seal"
        checked = "" if authority else ", by an authority that was not checked (--timestamp-authority)"
        found.notes.append(f"{seal.name}: existed at {when:%Y-%m-%d %H:%M:%S} UTC{checked}")
    if authority is not None and without:
        yield f"seals/: without a time-stamp: {', '.join(map(str, without))}"
    elif without and len(without) < len(chain):
        found.notes.append(f"seals/: without a time-stamp: {', '.join(map(str, without))}")


def _notebooks(folder: Path, found: Verified) -> Iterator[str]:
    """The digest of each result is what the last cell of its notebook showed when the step ended."""
    for path in sorted(folder.glob("results/*.json")):
        name = f"results/{path.name}"
        try:
            result = StepResult.read(path)
            step = plan.find(result.step)
        except (OSError, ValueError, KeyError, TypeError, RunbookError):
            yield f"{name}: it is not a result"
            continue
        if result.step != path.stem or result.run_id != folder.name:
            yield f"{name}: it is the result of step {result.step} of run {result.run_id}"
        notebook = folder / step.notebook
        if not notebook.is_file():
            if result.facts.get("execution"):
                yield f"{name}: {step.notebook}, which claims it, is missing"
            else:
                found.notes.append(f"{name}: the step was run by hand; its notebook is with who ran it")
        elif passed(result) and digest_of(path) not in _shown(notebook):
            yield f"{name}: it is not the result that {step.notebook} shows"


def _shown(notebook: Path) -> str:
    """What the outputs of an executed notebook say, as HTML."""
    try:
        cells = json_in(contents(notebook))["cells"]
        outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
        return "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _signatures(run: RunState, found: Verified, signers: Path | None) -> Iterator[str]:
    """Every statement; and that no step ran which needed approvals that are not there."""
    try:
        log = signoffs.recorded(run.reports)
        for name, (why, _) in signoffs.statements(run, signers).items():
            if why:
                yield f"signoffs/{name}: {why}"
            elif name not in log:
                yield f"signoffs/{name}: {audit.NAME} does not say that it was recorded"
        for name in signoffs.lost(run.reports):
            yield f"{name}: {audit.NAME} says that it was signed, and it is neither here nor set aside"
        for name, said in signoffs.no_gos(run.reports):
            reason = one_line(str(said.get("reason") or "no reason given"), 200)
            found.notes.append(f"{name}: {one_line(str(said.get('role')), 80)} says NO-GO: {reason}")
        acted = approvals.acted(run)
        for gate in signoffs.GATES:
            step = signoffs.BEFORE.get(gate)
            result = run.result(step) if step else None
            needed = result is not None and (step in acted or not passed(result))  # else of a dry run
            yield from _gate(run, gate, needed, found, signers)
        yield from dict.fromkeys(approvals.unapproved(run, signers))
        if run.result(Step.CUTOVER) is not None and not run.parameters.signoff.required:
            found.notes.append("signoffs/: cutover: nobody had to sign (signoff.required is empty)")
    except (RunbookError, OSError, ValueError, KeyError, TypeError) as error:
        yield f"signoffs/: the approvals cannot be judged: {error}"


def _gate(run: RunState, gate: str, needed: bool, found: Verified, signers: Path | None) -> Iterator[str]:
    state = signoffs.gate_state(run, gate, signers)
    found.notes += [f"signoffs/: {gate}: {role} signed with {who}" for role, who in state.keys.items()]
    for role in state.missing:
        stale = f"given before {', '.join(state.stale[role])} changed" if state.stale.get(role) else ""
        why = state.refused.get(role) or stale or "nobody has signed"
        path = signoffs.newest(run.reports, gate, role)
        name = f"signoffs/{path.name}" if path else f"signoffs/{gate}-{role}"
        gone = state.stale.get(role, [])
        if gate == signoffs.CLOSEOUT and gone and signoffs.set_aside(run.reports, gone):  # by a rollback
            found.notes.append(f"{name}: {role}: given before {', '.join(gone)} was set aside")
        elif needed or path is not None or role in state.refused:
            yield f"{name}: {role}: {why}"
        elif after(chain(run), signoffs.GATES[gate]) is not None:
            found.notes.append(f"{name}: {role} has not signed yet")
    if needed:
        yield from (f"signoffs/: step {signoffs.BEFORE[gate]} ran although {line}" for line in state.blocked)


def _derived(run: RunState, newest: Seal, page: Callable[[RunState], str], found: Verified) -> Iterator[str]:
    """What is made from the other files is made again and compared, by the version of the toolkit that made it only."""
    same_version = newest.predicate["helpers"] == tree(REPOSITORY / "helpers")
    commit = one_line(str(newest.predicate.get("code", {}).get("commit", ""))[:40])
    made: dict[str, Callable[[], str]] = {
        verify_script.NAME: lambda: verify_script.recipe(run, newest),
        RunPath.PAGE: lambda: page(run),
    }
    for name, make in made.items():
        path = run.reports / name
        if not path.is_file():
            yield f"{name}: missing"
            continue
        if not same_version:
            by = f"commit {commit} of the toolkit" if commit else "another version of the toolkit"
            found.notes.append(f"{name}: not compared, since {by} made it; pages as signed are sealed")
            continue
        try:
            same = contents(path) == make().encode("utf-8", errors="backslashreplace")
        except Exception as error:  # whatever a damaged file does to a page, the other problems are still listed
            yield f"{name}: it cannot be made again from the files of the run ({type(error).__name__})"
            continue
        if not same:
            yield f"{name}: it is not what the files of the run give"
