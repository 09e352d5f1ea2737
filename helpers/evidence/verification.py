"""`runbook verify`: whether a run's folder is exactly what was sealed and signed.

Reads nothing outside of the folder, so that it can verify an archived folder years later.
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
    dropped_approvals,
    entries_by_seal,
    identity,
    is_moved,
    other_identity,
    pushed,
    required,
    unbound_parameters,
    with_chain,
)
from helpers.evidence.secret_scan import attestation, other_code, replaced_seals, tree
from helpers.evidence.signing import ALLOWED, REVOKED, RUNNER
from helpers.evidence.statement import (
    CHANGING,
    FIRST,
    LEADS_OUT,
    SEALS,
    Seal,
    changed,
    covered_files,
    digest_of,
    logged_changes,
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
    """The outcome: `problems` and `notes` are lines that begin with the file, `newest` is the newest seal's digest."""

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
    """Check every file, the chain of seals, every signature, and that results agree with their notebooks.

    `page` generates index.html. `expect`: digests of seals, recorded elsewhere, that must be in the chain. `signers`: a
    list of allowed signers from outside of the folder, which must also allow each signature (for seals: `runbook-seal`).
    `authority`: the CA certificate of the time-stamping authority.
    """
    report = Verified()
    refused = unsealable(folder)
    report.problems += (f"{name}: it {problem}" for name, problem in refused.items())
    if LEADS_OUT in refused.values():  # it leads to another folder, or has no end
        return report
    chain = _read_chain(folder, report)
    report.problems += _check_expected(chain, expect, report)
    if chain:
        newest = chain[-1]
        report.newest = newest.digest
        run = with_chain(RunState(folder.name, folder, folder, judged=True), chain)
        for lines in (
            _note_changes(chain, report), _check_files(folder, newest, refused), _check_audit_log(folder, chain, report),
            _check_logged_files(folder, chain, report), _check_history(folder, chain, report),
            _check_binding(folder, chain, report), _check_seals_agree(run, chain), _check_custody(chain, signers, report),
            _check_timestamps(chain, authority, report), _check_pushed(folder, chain, report), _check_verdicts(folder, chain),
            _check_notebooks(folder, report), _check_parameters(run, report), _check_signatures(run, report, signers),
            _check_derived(run, newest, page, report),
        ):  # fmt: skip
            try:
                report.problems += lines
            except (
                RunbookError,
                OSError,
                ValueError,
                LookupError,
                TypeError,
                AttributeError,
                ArithmeticError,
            ) as error:
                report.problems.append(f"{error}")  # of a forged file; the other checks go on
        statements = len(list((folder / RunPath.SIGNOFFS).glob("*.json")))
        report.summary = f"{count(len(newest.subjects), 'file')}, {len(chain)} seals, {statements} signatures"
    return report


def _read_chain(folder: Path, report: Verified) -> list[Seal]:
    """Read the seals, report every problem of their chain, and compare the newest with VERIFY.txt."""
    paths = sorted(path for path in (folder / SEALS).glob("*") if path.suffix not in BESIDE)
    chain: list[Seal] = []
    for path in (folder / SEALS).glob("*"):
        if path.suffix in BESIDE and not (path.stem.endswith(".json") and path.with_suffix("").is_file()):
            report.problems.append(f"seals/{path.name}: it belongs to a seal that is not here")
        elif path.suffix in BESIDE and path.is_dir():
            report.problems.append(f"seals/{path.name}: it is not a seal")
    for path in paths:
        try:
            seal = read_seal(path)
        except (OSError, ValueError) as error:
            report.problems.append(f"seals/{path.name}: {error}")
            continue
        if seal.number != len(chain) + 1 or seal.previous != (chain[-1].digest if chain else FIRST):
            report.problems.append(f"{seal.name}: it does not follow the seal before it")
            if seal.previous_name != FIRST:
                report.problems.append(f"{seal.previous_name}: missing, or not the one that {seal.name} names")
        chain.append(seal)
    if not paths:
        report.problems.append("seals/: there is no seal; the run was not sealed")
    elif chain:
        path = folder / verify_script.NAME
        text = _contents(path).decode(errors="replace")
        newest = verify_script.NEWEST.search(text)
        if newest is None:
            report.problems.append(f"{verify_script.NAME}: it names no newest seal")
        elif (newest["digest"], newest["name"]) != (chain[-1].digest, chain[-1].name):
            report.problems.append(
                f"{one_line(newest['name'], 100)}: missing, or not the newest seal as {verify_script.NAME} names it"
            )
    return chain


def _contents(path: Path) -> bytes:
    try:
        return contents(path)
    except (OSError, ValueError):  # reported by `unsealable`, or as missing
        return b""


def _check_files(folder: Path, newest: Seal, refused: Mapping[str, str]) -> Iterator[str]:
    sealed = {*newest.subjects, *newest.prefixes}
    for name in changed(folder, newest, refused):
        yield f"{name}: {'changed' if (folder / name).exists() else 'missing'} since seal {newest.number}"
    present = {*covered_files(folder)} - {*refused}
    for name, lines in statement.added_lines(folder, newest).items():
        yield f"{name}: {count(lines, 'line')} added after seal {newest.number}, which no seal covers"
    for path in sorted(path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())):
        name = path.relative_to(folder).as_posix()
        if name not in statement.MAY_BE_EMPTY and not name.startswith(f"{RunPath.EARLIER}/"):
            yield f"{name}: an empty folder, which no seal covers"
    for name in sorted(present - sealed):
        yield f"{name}: not sealed; it was added after seal {newest.number}"


def _check_parameters(run: RunState, report: Verified) -> Iterator[str]:
    """parameters.yaml has the digest in run.json, and run.json and the audit log name the same changes of parameters."""
    facts, path = run.facts, run.reports / RunPath.PARAMETERS
    if facts.get("parameters_sha256") not in (None, digest_of(path)):
        yield f"{RunPath.PARAMETERS}: it is not the one that {RunPath.RUN} names"
    logged = [
        e["facts"].get("names") for e in audit.entries(run.reports / audit.NAME) if e["action"] == "parameters changed"
    ]
    recorded = {key for change in facts.get("changes", []) for key in change["from"]}
    for key in sorted(recorded ^ {key for names in logged for key in names or ()}):
        yield f"{RunPath.RUN}: a change of {one_line(key, 80)} is named {'here' if key in recorded else f'in {audit.NAME}'} only"


def _check_logged_files(folder: Path, chain: Sequence[Seal], report: Verified) -> Iterator[str]:
    """Each file has the digest in its newest line of the log; in a run of an older toolkit, each result and page."""
    newest = chain[-1]
    if WORK not in newest.predicate:
        return
    logged, complete = audit.logged_files(folder, statement.trust(chain)), not audit.is_older(folder)
    if complete and not logged.complete:
        yield f"{audit.NAME}: it has not the line with which the run began"
    for name in logged.unnamed(newest.subjects, every=complete):
        yield f"{name}: {audit.NAME} names no such file"
    for name in logged.missing({*newest.subjects, *covered_files(folder)}):
        yield f"{name}: {audit.NAME} names it, and it is gone"
    for name in logged.unclaimed:
        report.notes.append(
            f"{name}: no line named it before it was set aside: a killed step left it, or it is nobody's"
        )


def _check_audit_log(folder: Path, chain: Sequence[Seal], report: Verified) -> Iterator[str]:
    broken = audit.check(folder / audit.NAME)
    if broken is not None:
        yield f"{audit.NAME}: line {broken.line}: {broken.why}"
    for number, closing in audit.closed(audit.lines_of(folder / audit.NAME)).items():
        report.notes.append(
            f"{audit.NAME}: line {number}: cut short, or added by somebody; it proves nothing, as line {closing} says"
        )
    trust = statement.trust(chain)
    yield from (f"{audit.NAME}: {line}" for line in replaced_seals(folder, chain, trust))
    if trust is not None:
        unproven = list(audit.unsigned(folder / audit.NAME, trust))
        for line in unproven[: audit.MOST_FORGED]:
            yield f"{audit.NAME}: line {line}: it is not signed by the key that the seals name, and proves nothing"
        if (more := len(unproven) - audit.MOST_FORGED) > 0:
            yield (
                f"{audit.NAME}: {count(more, 'line')} from line {unproven[audit.MOST_FORGED]} on: not signed by that key either, "
                f"or not checked: behind {audit.MOST_FORGED} signatures that do not fit, no line proves anything"
            )
    if trust is None or trust.since:
        unsigned = [str(seal.number) for seal in chain if not seal.predicate.get(audit.LOG_KEY)]
        report.notes.append(
            f"{audit.NAME}: its lines before seal {unsigned[-1]} are chained, not signed: an older toolkit wrote them, "
            "or one without ssh-keygen"
        )


def _check_history(folder: Path, chain: list[Seal], report: Verified) -> Iterator[str]:
    """Between two seals, files change only as the log names: moved into `earlier/`, or rewritten by the toolkit."""
    log = entries_by_seal(folder, chain, statement.trust(chain))
    logs = {name for seal in chain for name in seal.prefixes}
    digests = {n: prefix_digests(folder / n, (s.prefixes[n][0] for s in chain if n in s.prefixes)) for n in logs}
    for number, (before, later) in enumerate(pairwise(chain), start=1):
        entries = log[number]
        logged = logged_changes(entries)
        unlogged, between = set(), f"changed between seal {before.number} and seal {later.number}"
        for name, digest in before.subjects.items():
            digest_now = later.subjects.get(name, "")
            if digest_now == digest:
                continue
            if is_moved(before, name, later.subjects, entries):
                if MOVES not in before.predicate:
                    unlogged.add(name)
            elif name not in CHANGING:
                yield f"{name}: {between}"
            elif RUNNER in before.predicate and (name, digest_now) not in logged:
                yield f"{name}: {between}, and {audit.NAME} names no such change"
        for name, (length, digest) in before.prefixes.items():  # `_check_files` checks the newest seal's
            if digests[name].get(length) != digest:
                yield f"{name}: not what it was at seal {before.number}"
        yield from (f"{later.name}: {problem}" for problem in _check_signers(folder, before, later, log, number))
        if unlogged:
            report.notes.append(
                f"{later.name}: {count(len(unlogged), 'file')} moved below earlier/ since seal {before.number}, which an older "
                f"toolkit set; its log names no moves: {', '.join(sorted(unlogged)[:3])}"
            )
        if datetime.fromisoformat(later.created) < datetime.fromisoformat(before.created):
            yield f"{later.name}: its time, {later.created}, is before that of seal {before.number}, {before.created}"


def _check_signers(
    folder: Path, one: Seal, two: Seal, log: Sequence[Sequence[dict[str, Any]]], number: int
) -> Iterator[str]:
    """A list of signers that differs from that of the seal before is narrower, or a resume ordered it, as logged by then."""
    if ALLOWED not in one.subjects or all(
        one.subjects.get(n) == two.subjects.get(n) for n in (ALLOWED, ALLOWED + REVOKED)
    ):
        return
    if ALLOWED not in two.subjects:
        yield f"it has no list of who may sign, and seal {one.number} has one"
        return
    old, new = (statement.signers_of(folder, seal) for seal in (one, two))
    if old is None or new is None:
        if statement.LISTS in one.predicate:  # older toolkits did not keep replaced lists
            yield f"its list of who may sign, or that of seal {one.number}, is not here"
        return
    lists = audit.signer_lists(new)
    entries = [entry for part in log[: number + 1] for entry in part]
    while entries and entries[-1]["action"] != audit.TAKEN:
        entries.pop()
    narrower = signing.is_narrower(lists, audit.signer_lists(old))
    if signing.ordered_digest(entries) != audit.digest_of_lists(lists) and not narrower:
        yield f"it lets others sign than seal {one.number}, and {audit.NAME} names no resume that ordered it"


def _check_binding(folder: Path, chain: list[Seal], report: Verified) -> Iterator[str]:
    """Every seal binds the parameters of the first, except for logged changes. The run's identity in run.json, and who has to
    sign, never change."""
    facts = signing.statement_of(folder / RunPath.RUN)
    first, previous = chain[0], chain[0]
    if names := other_identity(first, {**identity(facts), "directory": facts.get("directory")}):
        yield f"{RunPath.RUN}: {', '.join(names)}: not as seal 1 says"
    for seal in chain[1:]:
        now = {**seal.predicate["run"], "directory": seal.predicate.get("directory", first.predicate.get("directory"))}
        if names := other_identity(first, now):
            yield f"{seal.name}: {', '.join(names)} of the run: not as seal 1 says"
    log = audit.entries(folder / audit.NAME, statement.trust(chain), ("parameters changed",))
    for seal in chain[1:]:
        if BOUND not in first.predicate or BOUND not in seal.predicate:
            if seal.predicate["run"].get("binding") != previous.predicate["run"].get("binding"):
                report.notes.append(
                    f"{seal.name}: the parameters that bind the run, or the toolkit, are not those of seal {previous.number}"
                )
        elif seal.predicate[BOUND] != previous.predicate.get(BOUND):
            unbound, logged = unbound_parameters(first, seal.predicate[BOUND], log)
            if unbound:
                dropped = dropped_approvals(first, seal.predicate["approvals"])
                fell = f" (approvals that fell: {dropped})" if dropped else ""
                yield f"{seal.name}: {', '.join(unbound)}: not as seal 1 bound it{fell}"
            if logged:
                report.notes.append(f"{seal.name}: changed since seal 1, as {audit.NAME} says: {', '.join(logged)}")
        previous = seal


def _check_seals_agree(run: RunState, chain: Sequence[Seal]) -> Iterator[str]:
    """Each seal has all fields of the seal before, and agrees with the parameters if it covers the present ones."""
    for one, two in pairwise(chain):
        if missing := sorted(k for k, v in one.predicate.items() if v is not None and two.predicate.get(k) is None):
            yield f"{two.name}: it lacks what seal {one.number} has: {', '.join(one_line(part, 80) for part in missing)}"
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
        # Keys that only one of two toolkit versions knows are not compared.
        same = seal.predicate["helpers"] == code
        for part, now in parts.items():
            sealed = seal.predicate.get(part, {})
            different = {key for key in sealed.keys() & now.keys() if sealed[key] != now[key]}
            different |= sealed.keys() ^ now.keys() if same and part in seal.predicate else set()
            if different:
                keys = one_line(", ".join(sorted(different)), 200)
                yield f"{seal.name}: {part}: {keys}: not as {RunPath.PARAMETERS} says"
        if same and seal.predicate["run"].get("binding") != binding(rules):
            yield f"{seal.name}: binding: not as {RunPath.PARAMETERS} says"


def _check_verdicts(folder: Path, chain: Sequence[Seal]) -> Iterator[str]:
    """The verdicts and the decision in each seal are those of the results that it covers, wherever these are now."""
    results: dict[str, tuple[str, str, str]] = {}  # verdict, error and decision by digest
    for (_, digest), path in statement.kept_copies(folder, RunPath.RESULTS).items():
        with suppress(OSError, ValueError, KeyError, TypeError, RunbookError):  # `_notebooks` names it
            result = StepResult.read(path)
            error = str(result.error["code"]) if result.error else ""
            results[digest] = str(result.verdict), error, str(result.facts.get("decision", ""))
    for seal in chain:
        stated = seal.predicate["verdicts"]
        sealed = {Path(name).stem: d for name, d in seal.subjects.items() if re.fullmatch(r"results/[^/]+\.json", name)}
        known = {step: results[digest][:2] for step, digest in sealed.items() if digest in results}
        pairs = {step: (stated.get(step, {}).get("verdict"), stated.get(step, {}).get("error")) for step in known}
        different = [step for step in known if pairs[step] != known[step]]
        different += [step for step in stated if step not in sealed and stated[step].get("result") not in results]
        for step in sorted(different):
            yield f"{seal.name}: what it says of step {one_line(step, 80)} is not what results/{one_line(step, 80)}.json says"
        digest = sealed.get(Step.REVIEW, str(stated.get(Step.REVIEW, {}).get("result", "")))
        decision, sealed_decision = results.get(digest, ("", "", ""))[2], str(seal.predicate["decision"])
        if digest in {"", *results} and decision != seal.predicate["decision"]:
            texts = one_line(sealed_decision, 80) or "open", one_line(decision, 80) or "none"
            yield f"{seal.name}: it says the decision {texts[0]}, and results/24.json {texts[1]}"


def _note_changes(chain: list[Seal], report: Verified) -> Iterator[str]:
    """Note legitimate changes that an auditor must know (code, decision, signers, parameters), and files that were not
    searched for secrets."""
    for one, two in pairwise(chain):
        report.notes += other_code(one, two)
        before, now = (str(seal.predicate["decision"]) for seal in (one, two))
        if before not in ("", now):
            report.notes.append(f"{two.name}: the decision is {now or 'open'}; at seal {one.number} it was {before}")
        for name in sorted(CHANGING - {RunPath.RUN}):
            if name in one.subjects and one.subjects[name] != two.subjects.get(name):
                who = ", so others may sign, or sign otherwise" if name.startswith(ALLOWED) else ""
                text = f"changed between seal {one.number} and seal {two.number}, as {audit.NAME} says{who}"
                report.notes.append(f"{name}: {text}")
    for text, reason in chain[-1].predicate.get("secrets", {}).get("unknown", {}).items():
        omitted = f"{one_line(str(text), 200)} {one_line(str(reason), 200)}"
        report.notes.append(f"{chain[-1].name}: searched for secrets, but {omitted}")
    yield from ()


def _check_expected(chain: list[Seal], expect: Sequence[str], report: Verified) -> Iterator[str]:
    """The chain contains the expected digests; later seals are a note."""
    digests = [seal.digest for seal in chain]
    for digest in expect:
        if digest not in digests:
            yield f"seals/: no seal has the expected SHA-256 {one_line(digest, 64)}: these are not the seals that were made then"
        elif later := chain[digests.index(digest) + 1 :]:
            occasions = ", ".join(f"{seal.number} ({_occasion(seal)})" for seal in later)
            report.notes.append(
                f"{chain[digests.index(digest)].name}: is the expected one; seals made later: {occasions}"
            )


def _occasion(seal: Seal) -> str:
    return f"after step {seal.after}" if seal.after else "when a command ended"


def _check_custody(chain: list[Seal], signers: Path | None, report: Verified) -> Iterator[str]:
    """Each seal is signed by the runner that it names; a change of the key is a note."""
    before = ""
    for seal, key, problem in signing.custody(chain, signers=signers):
        if problem:
            yield problem
        if not key:
            continue
        runner = seal.predicate[RUNNER]
        yield from _check_envelope(seal, runner, report)
        if key != before and not problem:
            changed_hands = ", not with the key of the seal before" * bool(before)
            who = one_line(runner["principal"], 80)
            report.notes.append(f"{seal.name}: signed with the runner's key {key} of {who}{changed_hands}")
            before = key
    if unsigned := [str(s.number) for s in chain if RUNNER not in s.predicate or "unsigned" in s.predicate[RUNNER]]:
        report.notes.append(f"seals/: not signed: {', '.join(unsigned)}")
        if signers is not None:
            yield f"seals/: not signed, so that nobody can vouch for them: {', '.join(unsigned)}"


def _check_pushed(folder: Path, chain: list[Seal], report: Verified) -> Iterator[str]:
    """Every pushed digest is that of a seal; digests that were not pushed are notes."""
    digests = {seal.digest: seal for seal in chain}
    outcomes = pushed(folder)
    for digest, problem in outcomes.items():
        if digest not in digests:
            yield f"{audit.NAME}: the digest {one_line(digest, 64)} was pushed, and no seal has it"
        elif problem:
            report.notes.append(f"{digests[digest].name}: its digest was not pushed: {one_line(problem, 200)}")
    if outcomes:
        outside = [str(seal.number) for seal in chain if outcomes.get(seal.digest) == ""]
        report.notes.append(f"seals/: their digests were pushed: {', '.join(outside) or 'none'}")


def _check_envelope(seal: Seal, runner: Mapping[str, str], report: Verified) -> Iterator[str]:
    """The DSSE envelope beside a seal has the seal's content, signed by the same key."""
    path = seal.path.with_name(seal.path.name + statement.ENVELOPE)
    if "envelope" not in runner:
        if reason := runner.get("no_envelope"):
            report.notes.append(f"{seal.name}: without a DSSE envelope: {one_line(reason, 200)}")
        if path.exists():
            yield f"{seal.name}{statement.ENVELOPE}: the seal names no envelope"
        return
    payload = attestation(seal)
    try:
        data = contents(path)
        signature = base64.b64decode(json_in(data)["signatures"][0]["sig"])
        matches = statement.envelope(payload, signature, runner["fingerprint"]) == data
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        matches = False
    if not matches:
        yield f"{seal.name}{statement.ENVELOPE}: {'it does not say what its seal says' if path.is_file() else 'missing'}"
    elif not signing.raw_signed(statement.pre_authentication(payload), signature, runner["key"]):
        yield f"{seal.name}{statement.ENVELOPE}: the signature does not fit"


def _check_timestamps(chain: list[Seal], authority: Path | None, report: Verified) -> Iterator[str]:
    """Each time-stamp is for its seal, and not earlier than the seal's time."""
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
        report.notes.append(f"{seal.name}: existed at {when:%Y-%m-%d %H:%M:%S} UTC{checked}")
    if authority is not None and without:
        yield f"seals/: without a time-stamp: {', '.join(map(str, without))}"
    elif without and len(without) < len(chain):
        report.notes.append(f"seals/: without a time-stamp: {', '.join(map(str, without))}")


def _check_notebooks(folder: Path, report: Verified) -> Iterator[str]:
    """The executed notebook of each result shows the result's digest."""
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
                report.notes.append(f"{name}: the step was run by hand; its notebook is with who ran it")
        elif passed(result) and digest_of(path) not in _output_html(notebook):
            yield f"{name}: it is not the result that {step.notebook} shows"


def _output_html(notebook: Path) -> str:
    """The HTML outputs of an executed notebook; "" if it cannot be read."""
    try:
        cells = json_in(contents(notebook))["cells"]
        outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
        return "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _check_signatures(run: RunState, report: Verified, signers: Path | None) -> Iterator[str]:
    """Every statement is valid and logged, and no step ran without the approvals that it needed."""
    try:
        log = signoffs.recorded(run.reports)
        for name, (problem, _) in signoffs.statements(run, signers).items():
            if problem:
                yield f"signoffs/{name}: {problem}"
            elif name not in log:
                yield f"signoffs/{name}: {audit.NAME} does not say that it was recorded"
        for name in signoffs.lost_statements(run.reports):
            yield f"{name}: {audit.NAME} says that it was signed, and it is neither here nor set aside"
        for name, statement_facts in signoffs.no_gos(run.reports):
            reason = one_line(str(statement_facts.get("reason") or "no reason given"), 200)
            report.notes.append(f"{name}: {one_line(str(statement_facts.get('role')), 80)} says NO-GO: {reason}")
        acted = approvals.acted_steps(run)
        for gate in signoffs.GATES:
            step = signoffs.BEFORE.get(gate)
            result = run.result(step) if step else None
            needed = result is not None and (step in acted or not passed(result))  # else of a dry run
            yield from _check_gate(run, gate, needed, report, signers)
        yield from dict.fromkeys(approvals.unapproved(run, signers))
        if run.result(Step.CUTOVER) is not None and not run.parameters.signoff.required:
            report.notes.append("signoffs/: cutover: nobody had to sign (signoff.required is empty)")
    except (RunbookError, OSError, ValueError, KeyError, TypeError) as error:
        yield f"signoffs/: the approvals cannot be judged: {error}"


def _check_gate(run: RunState, gate: str, needed: bool, report: Verified, signers: Path | None) -> Iterator[str]:
    state = signoffs.gate_state(run, gate, signers)
    report.notes += [f"signoffs/: {gate}: {role} signed with {who}" for role, who in state.keys.items()]
    for role in state.missing:
        stale = f"given before {', '.join(state.stale[role])} changed" if state.stale.get(role) else ""
        problem = state.refused.get(role) or stale or "nobody has signed"
        path = signoffs.newest(run.reports, gate, role)
        name = f"signoffs/{path.name}" if path else f"signoffs/{gate}-{role}"
        stale_files = state.stale.get(role, [])
        if (
            gate == signoffs.CLOSEOUT and stale_files and signoffs.all_set_aside(run.reports, stale_files)
        ):  # by a rollback
            report.notes.append(f"{name}: {role}: given before {', '.join(stale_files)} was set aside")
        elif needed or path is not None or role in state.refused:
            yield f"{name}: {role}: {problem}"
        elif after(chain(run), signoffs.GATES[gate]) is not None:
            report.notes.append(f"{name}: {role} has not signed yet")
    if needed:
        yield from (f"signoffs/: step {signoffs.BEFORE[gate]} ran although {line}" for line in state.blocked)


def _check_derived(run: RunState, newest: Seal, page: Callable[[RunState], str], report: Verified) -> Iterator[str]:
    """Generate the derived files again and compare them, if this is the version of the toolkit that wrote them."""
    same_version = newest.predicate["helpers"] == tree(REPOSITORY / "helpers")
    commit = one_line(str(newest.predicate.get("code", {}).get("commit", ""))[:40])
    generators: dict[str, Callable[[], str]] = {
        verify_script.NAME: lambda: verify_script.recipe(run, newest),
        RunPath.PAGE: lambda: page(run),
    }
    for name, generate in generators.items():
        path = run.reports / name
        if not path.is_file():
            yield f"{name}: missing"
            continue
        if not same_version:
            by = f"commit {commit} of the toolkit" if commit else "another version of the toolkit"
            report.notes.append(f"{name}: not compared, since {by} made it; pages as signed are sealed")
            continue
        try:
            matches = contents(path) == generate().encode("utf-8", errors="backslashreplace")
        except Exception as error:  # a damaged file can raise anything; the other problems are still reported
            yield f"{name}: it cannot be made again from the files of the run ({type(error).__name__})"
            continue
        if not matches:
            yield f"{name}: it is not what the files of the run give"
