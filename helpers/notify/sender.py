"""A separate process that hands one notice to every channel at once; the package starts it and ends it.

It reads an order as JSON from standard input (so no URL is in a list of processes) and writes one line of JSON for each
channel that has answered. Messages of libraries and servers are not repeated: they may contain the URL. A channel that
hangs delays neither the others nor the end: the process exits without waiting for it. It imports nothing of `helpers`.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import sys
import threading
import time
from http import HTTPStatus
from typing import Any


def main() -> None:
    order = json.load(sys.stdin)
    import apprise

    logging.getLogger("apprise").addHandler(logging.NullHandler())  # else it writes to standard error
    apprise.Apprise.instantiate("json://localhost")  # loads all services, a second or more: before the clock starts
    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    for number, url in enumerate(order["urls"]):
        threading.Thread(target=_one, args=(apprise, order, number, url, answers), daemon=True).start()
    end = time.monotonic() + float(order["seconds"])
    for _ in order["urls"]:
        try:
            answer = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        print(json.dumps(answer), flush=True)
    os._exit(0)  # threads that still wait for an answer are left behind


def _one(apprise: Any, order: dict[str, Any], number: int, url: str, answers: queue.Queue[dict[str, Any]]) -> None:
    started = time.monotonic()
    try:
        error = _send(apprise, order, url)
    except Exception as raised:
        error = f"{type(raised).__name__} in the library that sends"
    answers.put({"number": number, "error": error, "seconds": round(time.monotonic() - started, 3)})


def _send(apprise: Any, order: dict[str, Any], url: str) -> str:
    """ "" where the service accepted the notice, else the cause in our own words."""
    # Secret headers are for the server that the URL names, not for one that it names in turn.
    asset = apprise.AppriseAsset(
        secure_logging=True, http_redirects=False, storage_mode=apprise.PersistentStoreMode.MEMORY
    )
    service = apprise.Apprise(asset=asset)
    if not service.add(url):
        return "is not a usable Apprise URL: https://github.com/caronc/apprise/wiki"
    scheme = url.partition(":")[0].strip().lower()
    attach = order["attach"] if order["attach"] and scheme.startswith("mailto") else None
    # Plain text, said so: a mail is HTML otherwise, and names and answers of others in it would be markup.
    title, body = (
        order[part] if scheme in _TOOLS else _inert(order[part], order["trusted"]) for part in ("title", "body")
    )
    result = service.notify(
        title=title, body=body, notify_type=order["kind"], attach=attach, body_format=apprise.NotifyFormat.TEXT
    )
    return "" if result else _why(" ".join(str(entry.message) for entry in result.logs()))


# Mail and tools, which take the words as they are. All others are chats, also those that a new library knows.
_TOOLS = frozenset({"form", "forms", "json", "jsons", "mailto", "mailtos", "syslog", "xml", "xmls"})


# What may be the name of a host; the dots in it behind which a top domain may be (1.5.dev3 and sqlite3 are none); and a file.
_HOST = r"[\w-]+(?:[.\u3002\uff0e\uff61][\w-]+)+"
_DOT = r"(?<=[wW]{3})\.|[.\u3002\uff0e\uff61](?=[^\W\d_]{2})(?![^\W\d_]+\d)"
_FILE = re.compile(r"[\w-]+\.(?:html|ics|ipynb|jsonl?|log|lock|parquet|pem|txt|ya?ml)")


def _inert(text: str, trusted: str) -> str:
    """The text with U+200B inside everything that a chat service would turn into a link or a mention.

    So it splits names of hosts, but for those in `trusted`; numbers, versions and names of files, such as run.json, stay.
    """
    own = {*re.findall(_HOST, trusted)}

    def split(match: re.Match[str]) -> str:
        if len(match[0]) == 1:
            return f"{match[0]}\u200b"
        return match[0] if match[0] in own or _FILE.fullmatch(match[0]) else re.sub(_DOT, "\\g<0>\u200b", match[0])

    return re.sub(rf"@|\](?=[(\[])|<(?=[!@#\w])|:(?=//)|{_HOST}", split, text)


def _why(logged: str) -> str:
    """The kind of failure, in our own words: the library's log may contain the URL."""
    code = re.search(r"error=(\d{3})\b", logged)
    if code:
        is_standard = int(code[1]) in HTTPStatus._value2member_map_
        answer = f"answered {code[1]}{' ' + HTTPStatus(int(code[1])).phrase if is_standard else ''}"
        return f"{answer}, which is not followed: give the address that it leads to" if code[1][0] == "3" else answer
    if re.search(r"(?i)connection error|timed? ?out|resolve|unreachable", logged):
        return "cannot be reached, or did not answer"
    return "did not take it"


if __name__ == "__main__":
    main()
