# SPDX-License-Identifier: 0BSD
# SPDX-FileCopyrightText: 2026 The codegen_telemetry authors
# Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is
# hereby granted. THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS
# SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE
# LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM
# LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING
# OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
# Upstream: https://pypi.org/project/codegen-telemetry/
# cython: annotation_typing=False
# ruff: noqa
# flake8: noqa
# fmt: off
# isort: skip_file
# pylint: skip-file
"""Anonymous usage telemetry for a command-line tool, in one file of standard library.

Copy this file into your package, describe your tool with a `Product`, and call:

- `Product`, `CODEGEN`: who is speaking, an immutable description of a tool, and one of them
- `is_ci(environ)`: whether a continuous integration service runs us
- `input_source(value)`: where an input lies, never the input itself
- `error_type(exc)`: the category of an exception, from its type alone
- `Telemetry(product, version=...)`: `track`, `command`, `flush`, `close`, `enabled`, `reason`
- `main(argv, product=..., project=...)`: the command line with `status`, `enable`, `disable`

    telemetry = Telemetry(Product(name="Example", command="example"), version="1.0")
    with telemetry.command("build", flags=["--watch"]):
        ...                     # the tool's work

What a reviewer may rely on:

- Any "no" wins: `DO_NOT_TRACK`, `<PREFIX>_DISABLED`, the project, the user's config file, no place for it, a
  notice that nobody has seen. Environment and file are looked at again before each request.
- Only what `Product.events` declares leaves: words, numbers, choices; no free text, path or message.
- `track` writes one small file and returns. One daemon thread of a `Telemetry` sends; `_post` opens the only
  socket. A request takes a second at most, the interpreter's exit waits `exit_wait` seconds for each at most.
- After a failure nothing leaves for ten minutes and more, or what the server asks; after the notice or a
  delivery for a minute, except in CI and where a variable names the destination; 25 events end the latter.
- Importing does nothing. Nothing is printed but the first-run notice and, when asked for, debug output.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import stat
import sys
import threading
import time
from binascii import crc32
from collections import namedtuple
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EINVAL, ENOSPC, ENOTSUP
from functools import lru_cache, partial, wraps
from io import FileIO, TextIOWrapper
from itertools import count, islice
from operator import index
from types import MappingProxyType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Tuple, TypeVar
    Words = Tuple[str, ...]
    T = TypeVar("T")
else:  # for who checks types at run time; to import `typing` would cost half as much as all of this file
    Any = T = object
    Words = tuple

__all__ = ["CODEGEN", "Product", "Telemetry", "error_type", "input_source", "is_ci", "main"]
__version__ = "2.0.0"


# === Product: who is speaking? ===

# What each kind of parameter lets through, in the words of `status`.
KINDS = MappingProxyType({
    "flag": "true or false", "count": "a whole number", "milliseconds": "a whole number of milliseconds",
    "choice": "one of a fixed list of words, else other",
    "several": "some of a fixed list of words, joined by commas",
    "word": "a word the tool's author chose, else other", "words": "several of them, joined by commas",
    "options": "true, false, numbers and fixed words; other text becomes custom"})
INPUT_SOURCES = ("remote_url", "local_relative", "local_absolute")
ERROR_TYPES = ("configuration_error", "file_not_found", "network_error", "parse_error", "validation_error",
               "permission_error", "interrupted", "unknown_error")
_INPUT_TYPES = ("asyncapi", "openapi", "jsonschema")
_CODEGEN: Mapping[str, Any] = MappingProxyType({
    "name": "The Codegen Project CLI", "command": "codegen", "env_prefix": "CODEGEN_TELEMETRY",
    "directory": ".the-codegen-project", "docs_url": "https://the-codegen-project.org/docs/telemetry",
    "endpoint": "https://www.google-analytics.com/mp/collect", "tracking_id": "G-XXXXXXXXXX",
    "api_secret": "", "opt_in": False, "opt_out": "codegen telemetry disable",
    "project_files": tuple("""
        codegen.config.js codegen.config.ts codegen.config.mjs codegen.config.cjs codegen.config.json
        codegen.json codegen.yaml codegen.yml codegen.js codegen.ts codegen.mjs codegen.cjs
        .codegenrc .codegenrc.json .codegenrc.yaml .codegenrc.yml package.json""".split()),
    "events": {
        "command_executed": {
            "command": "word", "flags": "words", "input_source": INPUT_SOURCES, "input_type": _INPUT_TYPES,
            "generators": "words", "generator_count": "count", "duration": "milliseconds", "success": "flag"},
        "generator_used": {
            "generator_type": "word", "input_type": _INPUT_TYPES, "input_source": INPUT_SOURCES,
            "language": "word", "options": {"serializationType": ("json",)}, "duration": "milliseconds",
            "success": "flag"},
        "init_executed": {"config_type": "word", "input_type": _INPUT_TYPES, "generators": "words",
                          "language": "word", "completed": "flag"},
        "error_occurred": {"command": "word", "error_type": ERROR_TYPES}}})

# GA4's limits and reserved names for web streams, and the parameters that have a fixed type in every event:
# https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference?client_type=gtag
# https://support.google.com/analytics/answer/13316687 and https://github.com/googleanalytics/ga-dev-tools
_COMMON_PARAMS = MappingProxyType({
    "cli_version": "the tool's version", "python_version": "such as 3.11.7", "os": "such as linux",
    "ci": "whether a CI service runs it", "agent": "which AI coding agent runs it, or none",
    "session_id": "the second the process started", "engagement_time_msec": "the duration, at least 1"})
_MAX_PARAMS, _MAX_TEXT = 25 - len(_COMMON_PARAMS), 100  # of a tool's own; characters
_NAME = "(?!firebase_|ga_|google_)[A-Za-z][A-Za-z0-9_]{0,39}"  # reserved, too: _ and gtag., which don't match
_RESERVED_EVENTS = frozenset("""
    ad_activeview ad_click ad_exposure ad_impression ad_query ad_reward adunit_exposure app_clear_data
    app_exception app_install app_remove app_store_refund app_update app_upgrade dynamic_link_app_open
    dynamic_link_app_update dynamic_link_first_open error first_open first_visit in_app_purchase
    notification_dismiss notification_foreground notification_open notification_receive notification_send
    os_update screen_view session_start user_engagement""".split())
# The kinds that parameters of some names may have, in every event. No kind holds what GA4 wants in the first
# three: an array, and an amount together with a currency in capitals. The common ones are taken.
_FIXED_KINDS: Mapping[str, Words] = MappingProxyType({
    **dict.fromkeys(("items", "value", "currency", *_COMMON_PARAMS), ()),
    **dict.fromkeys(("shipping", "tax", "level", "score"), ("count", "milliseconds")), **dict.fromkeys("""
    transaction_id affiliation coupon shipping_tier virtual_currency_name payment_type group_id character
    method search_term content_type item_id item_list_id item_list_name item_name creative_name creative_slot
    location_id promotion_id promotion_name achievement_id""".split(), ("word", "words", "choice"))})


class _Several(Words):
    """The words of a kind that was declared as a list: several of them may be passed."""


def _checked_kind(event: object, name: str, kind: Any, is_option: bool = False) -> Any:
    """An unchangeable copy of a kind. Raises ValueError for what is none, or none that GA4 takes here."""
    sort = kind = {} if kind == "options" else kind
    if isinstance(kind, Mapping) and not is_option:
        names = {option: f"{name}_{option}".replace("-", "_") for option in kind}
        kind = MappingProxyType({option: _checked_kind(event, names[option], kind[option], True)
                                 for option in kind})
        name, sort = f"{name}_x", "options"  # any other option may be passed, too
    elif isinstance(kind, (tuple, list)) and kind and all(
            isinstance(word, str) and word.isascii() and word.isprintable() and 0 < len(word) <= _MAX_TEXT
            and (isinstance(kind, tuple) or "," not in word) for word in kind):
        kind = _Several(kind) if isinstance(kind, (list, _Several)) else tuple(kind)
        sort = "options" if is_option else "choice"
    elif is_option or kind not in ("flag", "count", "milliseconds", "word", "words"):
        raise ValueError(f"{event}.{name}: {kind!r} is no kind; a choice is a tuple of short ASCII words")
    if not re.fullmatch(_NAME, name) or sort not in _FIXED_KINDS.get(name, KINDS):
        raise ValueError(f"{event}.{name}: Google Analytics refuses this name or kind, or we add it")
    return kind


def _checked_event(event: object, params: Any) -> Mapping[str, Any]:
    """An unchangeable copy of an event's declaration. Raises ValueError for what GA4 would refuse."""
    if not isinstance(params, Mapping) or event in _RESERVED_EVENTS or not re.fullmatch(_NAME, str(event)):
        raise ValueError(f"event {event!r} is no table of parameters, or Google Analytics refuses its name")
    checked = {name: _checked_kind(event, str(name), kind) for name, kind in params.items()}
    if sum(len(kind) or 1 if isinstance(kind, Mapping) else 1 for kind in checked.values()) > _MAX_PARAMS:
        raise ValueError(f"event {event!r} has over {_MAX_PARAMS} parameters, with options")
    return MappingProxyType(checked)


class Product(namedtuple("_Fields", "name command env_prefix directory docs_url endpoint tracking_id "
                                    "api_secret events project_files opt_in opt_out")):
    """A tool's identity, immutable; every field is keyword-only.

    | field | what it is | default |
    | --- | --- | --- |
    | `name` | the name in the notice | `command` |
    | `command` | what users type, before `telemetry disable` | `codegen` |
    | `env_prefix` | of `<env_prefix>_DISABLED`, `_DEBUG`, `_ENDPOINT`, ... | `<COMMAND>_TELEMETRY` |
    | `directory` | folder of all files, in the home folder unless absolute | `.<command>-telemetry` |
    | `docs_url` | the page that the notice names | none |
    | `endpoint` | where events go: an http(s) URL | Google Analytics 4 |
    | `tracking_id`, `api_secret` | GA4's measurement ID and secret; other endpoints need none | none |
    | `events` | `{event: {parameter: kind}}` | that of `CODEGEN` |
    | `project_files` | files in the working directory whose `telemetry.enabled` may say no | none |
    | `opt_in` | nothing happens before the user's `<command> telemetry enable` | `False` |
    | `opt_out` | what the notice names as the way to disable | `<command> telemetry disable` |

    Without `command` and `name` the defaults are those of `CODEGEN`. A kind is a tuple of words (a choice), a
    list of words (several), a mapping from options to the words that each may hold, or another of `KINDS`.
    Raises ValueError for what is malformed, what GA4 would refuse, and a name without a command.
    """
    __slots__ = ()

    def __new__(cls, *, name: str | None = None, command: str | None = None, env_prefix: str | None = None,
                directory: str | None = None, docs_url: str | None = None, endpoint: str | None = None,
                tracking_id: str | None = None, api_secret: str | None = None,
                events: Mapping[str, Mapping[str, Any]] | None = None,
                project_files: tuple[str, ...] | None = None, opt_in: bool | None = None,
                opt_out: str | None = None) -> Product:
        given = {key: value for key, value in locals().items() if key in cls._fields and value is not None}
        if "name" in given and "command" not in given:
            raise ValueError("a product with a name of its own needs a command of its own")
        fields = {**_CODEGEN, **given}
        for field, value in fields.items():
            kind: Any = Mapping if field == "events" else type(_CODEGEN[field])
            if not isinstance(value, kind):
                raise ValueError(f"{field} must be a {kind.__name__}")
        if fields["command"] != _CODEGEN["command"]:  # another tool has an opt-out and a folder of its own
            slug = re.sub("[^A-Za-z0-9]", "-", fields["command"]).strip("-")  # if empty, they must be passed
            fields.update({"name": fields["command"], "docs_url": "", "project_files": (),
                           "directory": slug and f".{slug.lower()}-telemetry",
                           "env_prefix": slug and slug.replace("-", "_").upper() + "_TELEMETRY",
                           "opt_out": f"{fields['command']} telemetry disable", **given})
        for field in ("command", "name", "directory", "opt_out"):
            if not fields[field].strip(" .") or not fields[field].isprintable():
                raise ValueError(f"{field} must be a printable text, not {fields[field]!r}")
        if not all(isinstance(file, str) and file for file in fields["project_files"]):
            raise ValueError("project_files must be a tuple of file names")
        if not (fields["env_prefix"].isascii() and fields["env_prefix"].isidentifier()):
            raise ValueError(f"env_prefix can't begin a variable's name: {fields['env_prefix']!r}")
        events = {event: _checked_event(event, params) for event, params in fields["events"].items()}
        return super().__new__(cls, **{**fields, "events": MappingProxyType(events)})

    def __repr__(self) -> str:
        return f"<Product {self.command!r}>"  # never the secret


CODEGEN = Product()


# === Config file: what is remembered? ===

_MAX_FILE = 64 * 1024             # bytes; ours has 300, so a larger one is not ours
_STALE_SECONDS = 10.0             # a lock or claim this old belongs to a process that is gone
_RUN = os.urandom(16)             # together with the process id it tells this process from others
_TEMPORARY = "[.][0-9a-f]{8}-[0-9]+-[0-9a-f]{8}[.]tmp"  # the end of the name of a file being written
# What a new file begins with. It names no destination, because a copy of the product's would outlive it.
_NEW = b'{"version":"1.0.0","telemetry":{"enabled":true,"anonymousId":""},"hasShownTelemetryNotice":false}'
_Config = namedtuple("_Config", "problem data enabled notice_shown client_id endpoint tracking_id api_secret",
                     defaults=(_NEW, False, False, "", "", "", ""))
_MISSING = _Config("")  # no file; else `problem` is empty, or why the file can't be used


class _Clock:
    """What waits depend on, kept where those who freeze or mock the clocks of `time` don't reach."""
    now: Any = staticmethod(partial(time.clock_gettime, time.CLOCK_MONOTONIC) if os.name == "posix"
                            else time.monotonic)
    sleep = staticmethod(time.sleep)
    ticks = count()  # one for each event of the process


def _wall_time() -> float:
    """Seconds since 1970, as far as 16 digits of microseconds can tell."""
    return min(max(float(time.time()), 0.0), 9_999_999_999.0)


def _time_text(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _token() -> str:
    """This process in the names of its files; of one length, so that none is part of another."""
    return f"{_RUN.hex()[:8]}-{os.getpid():010d}"


def _config_path(product: Product, environ: Mapping[str, str] = os.environ) -> str:
    """The config file of this user; empty where its path is not absolute, or HOME is empty."""
    folder = os.path.join(os.path.expanduser("~"), os.path.expanduser(product.directory))
    has_home = os.path.isabs(folder) and environ.get("HOME") != ""
    return os.path.normpath(os.path.join(folder, "config.json")) if has_home else ""


def _has_place(path: str) -> bool:
    """Whether the config file could be made. Its folder is made where it is missing, the home never is."""
    folder, home = os.path.dirname(path), os.path.normpath(os.path.expanduser("~"))
    place = os.path.dirname(os.path.realpath(path) if os.path.lexists(folder) else folder)
    while place.startswith(home + os.sep) and not (os.path.lexists(folder) or os.path.lexists(place)):
        place = os.path.dirname(place)
    return bool(path) and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def _make_folder(path: str) -> None:
    """Make a folder for its user only, whatever the umask, and those above it. Raises OSError."""
    if path and not os.path.isdir(path):
        _make_folder(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)


def _patiently(call: Callable[..., T], *arguments: Any) -> T:
    """The call's result. Windows, and only that, refuses to touch what another process has open."""
    for _ in range(10 if os.name == "nt" else 0):
        with suppress(PermissionError):
            return call(*arguments)
        _Clock.sleep(0.01)
    return call(*arguments)


def _quietly(call: Callable[[], Any], default: Any) -> Any:
    """The call's result, or the default if it raises."""
    try:
        return call()
    except Exception:  # broad on purpose: for objects of the host, and for what it has patched
        return default


def _unlink(path: str) -> None:
    _quietly(partial(_patiently, os.unlink, path), None)


def _age(path: str) -> float:
    """Seconds since the file was written, without sign, because clocks are set; 0 if it is gone."""
    return float(_quietly(lambda: abs(time.time() - os.stat(path).st_mtime), 0))


def _read_bytes(path: str, limit: int = _MAX_FILE) -> bytes:
    """What a regular file of at most `limit` bytes holds. Raises OSError, ValueError."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_size > limit:  # to open a pipe would wait for its writer
        raise ValueError(f"it is no regular file of at most {limit} bytes")
    with FileIO(_patiently(os.open, path, os.O_RDONLY | getattr(os, "O_BINARY", 0))) as file:
        return file.read(limit)


def _interpreted(data: bytes) -> _Config:
    """The parts of a config file that we use. Raises AttributeError, ValueError for what can't be one."""
    document = json.loads(data)
    section, notice = document.get("telemetry", {}), document.get("hasShownTelemetryNotice", False)
    texts = [section.get(key, "") for key in ("anonymousId", "endpoint", "trackingId", "apiSecret")]
    about = [document.get(key, "") for key in ("version", "lastUpdated")]
    if not isinstance(notice, bool) or not all(isinstance(text, str) for text in texts + about):
        raise ValueError("a value has the wrong type")
    if texts[0] and not re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", texts[0]):
        raise ValueError("telemetry.anonymousId is not a UUID")
    return _Config("", data, section.get("enabled") is True, notice, *(text.strip() for text in texts))


def _read_config(path: str) -> _Config:
    """What the config file says. Never raises, never writes. The Node.js CLI writes it in place, so one that
    looks damaged and was written within the last second is read again for up to 50 ms."""
    deadline = _Clock.now() + 0.05
    while True:
        try:
            return _interpreted(_read_bytes(path))
        except (FileNotFoundError, NotADirectoryError):
            return _MISSING
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            if _age(path) >= 1 or _Clock.now() >= deadline:
                return _Config(f"it can't be used: {error}")
        _Clock.sleep(0.005)


@contextmanager
def _written(path: str, data: bytes, durable: bool = False) -> Generator[str, None, None]:
    """A new file beside `path`, for its user only, that is deleted unless it is renamed. Raises OSError. Not
    by `open`, which is gone when the last objects of a host are deleted."""
    temporary = f"{path}.{_token()}-{os.urandom(4).hex()}.tmp"
    _make_folder(os.path.dirname(path))
    try:
        with FileIO(temporary, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            os.chmod(temporary, 0o600)  # because a umask may forbid even its user to read it
            if file.write(data) < len(data):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            if durable:
                try:
                    os.fsync(file.fileno())
                except OSError as error:
                    if error.errno not in (EINVAL, ENOTSUP):  # which SMB and FUSE say to it
                        raise
        yield temporary
    finally:
        _unlink(temporary)


def _store(path: str, data: bytes) -> None:
    """Write a file, complete or not at all. Raises OSError."""
    with _written(path, data) as temporary:
        _patiently(os.replace, temporary, path)


def _changed(data: bytes, changes: Mapping[str, Any]) -> bytes:
    """A config file with changes and an anonymous ID. Raises ValueError if we could not read it any more."""
    document = json.loads(data)
    section = {**document.get("telemetry", {}), **changes.get("telemetry", {})}
    if not section.get("anonymousId"):
        import uuid  # needed once in the life of a config file
        section["anonymousId"] = str(uuid.uuid4())
    document.update({**changes, "telemetry": section, "lastUpdated": _time_text(_wall_time())})
    for indent in (2, None):  # deeply nested keys of others take most of their room for indentation
        data = json.dumps(document, indent=indent).encode() + b"\n"
        if len(data) <= _MAX_FILE:
            return data
    raise ValueError("it would become too large")


def _create_config(path: str) -> bool:
    """Create the config file, complete and by one process only: whether we did. Never raises."""
    path = os.path.realpath(path)
    with suppress(AttributeError, NotImplementedError, OSError), _written(path, _changed(_NEW, {})) as file:
        os.link(file, path)  # exclusive; it raises where the file exists, or can have no hard link
        return True
    return False


def _edit(path: str, changes: Mapping[str, Any], wait: float,
          show: Callable[[_Config], object] = bool, durable: bool = False) -> None:
    """Change the config file, or make it, under a lock for which we wait so many seconds at most. `show` gets
    the old content after the new file is written, so that a full disk is known, but before it is in place.
    A decision (`durable`) moves a damaged file aside; of a link only the link, for it may lead to /dev/null.
    Raises OSError (BlockingIOError where others are at the file), ValueError."""
    path = path if durable and _read_config(path).problem else os.path.realpath(path)
    lock, deadline = path + ".lock", _Clock.now() + wait
    while True:
        if _age(lock) > _STALE_SECONDS:
            _unlink(lock)
        with suppress(FileExistsError):
            os.close(_patiently(os.open, lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            break
        if _Clock.now() >= deadline:
            raise BlockingIOError(f"another process holds {lock}")
        _Clock.sleep(0.01)
    mine = os.stat(lock).st_mtime_ns
    try:
        for file in os.scandir(os.path.dirname(path)):
            if re.fullmatch(re.escape(path) + _TEMPORARY, file.path):
                _unlink(file.path)  # its writer, if it only slept, must not go on
        before = _read_config(path)
        if before.problem and not durable:
            raise BlockingIOError(f"another program is writing {path}")
        with _written(path, _changed(before.data, changes), durable) as temporary:
            show(before)
            if _read_config(path) != before:  # somebody wrote it without our lock
                raise BlockingIOError(f"another program has just changed {path}")
            if before.problem:
                _patiently(os.replace, path, path + ".bak")
            _patiently(os.replace, temporary, path)
    finally:
        if _quietly(lambda: os.stat(lock).st_mtime_ns, 0) == mine:  # else we slept, and another broke it
            _unlink(lock)


def _decide(path: str, enabled: bool) -> None:
    """Store the user's decision, again and again until it has stood for a tenth of a second: the Node.js CLI
    writes back what it read a moment ago. A no brings a new anonymous ID. Raises OSError, ValueError."""
    deadline, old = _Clock.now() + 2.0, _read_config(path)
    if not (old.problem or _has_place(path)):  # what is damaged is moved, so a link's target does not count
        raise OSError(f"there is no place for {path or 'a config file'}")
    _make_folder(os.path.dirname(path))
    decision = {"telemetry": {"enabled": True}, "hasShownTelemetryNotice": True} if enabled else {
        "telemetry": {"enabled": False, "anonymousId": ""}}
    while True:
        try:
            _edit(path, decision, deadline - _Clock.now(), durable=True)
            for _ in range(10):
                _Clock.sleep(0.01)
                now = _read_config(path)  # which has no ID where it is missing or damaged
                is_kept = now.enabled is enabled and (now.notice_shown or not enabled)
                if enabled and not now.enabled and now.client_id not in ("", old.client_id):
                    raise OSError("it has just been disabled")
                if not (is_kept and now.client_id):
                    raise BlockingIOError(f"another program keeps changing {path}")
            return
        except (BlockingIOError, FileNotFoundError):  # the latter when another process broke our lock
            if _Clock.now() >= deadline:
                raise
            _Clock.sleep(0.01)


# === Consent: may we send, and who decided? ===

_NO_WORDS = frozenset(("", "0", "false", "no", "off"))
_ON = "on by default"
_UNTOLD = "the first-run notice is due, and could not be shown on a terminal"
# What a project's JavaScript, TypeScript or YAML is cleared of: quotes around words, other texts, comments.
# Each alternative, once begun, fails after a bounded number of steps, so that no text makes a match slow.
_NOISE = r"""(["'`])(?P<word>[\w.-]{1,99})\1|%s|"(?:\\.|[^"\\\n])*"?|(?<!\w)'(?:\\.|[^'\\\n])*'?|`[^`\n]*`"""
_SCRIPT_NOISE, _YAML_NOISE = r"(?<!\\)/(?:/[^\n]*|\*(?s:.*?)(?:\*/|\Z))", r"(?<!\S)((#|//)[^\n]*|[&!]\S+)"
_NO = r"\]?\s*[:=][\s(]*(?:(?i:false|no?|off)|0|!1|!true)(?![\w$-])"
_BRACES = (r"[(){},;]|\n(?![ \t]{0,99}[?:])|(?<![\w$-])(?:"
           rf"(telemetry|telemetry\.enabled|enabled){_NO}|(telemetry)\]?\s*[:=]\s*)")
_BLOCK = (r"(?m)^([ \t]{0,8})(?:- )?telemetry[ \t]*:[ \t]*\n(?:(?:\1[ \t]+[^\s][^\n]*|[ \t]*)\n){0,200}?"
          rf"\1[ \t]+enabled{_NO}")


def _is_set(environ: Mapping[str, str], variable: str) -> bool:
    """Whether a variable is set to anything but a word for no. Undecodable bytes count as set."""
    return environ.get(variable, "").strip().lower() not in _NO_WORDS


def _braces_say_no(text: str) -> bool:
    """Whether `telemetry` has `enabled` set to false inside its braces, however deep."""
    opened: list[str] = []   # the braces and parentheses that are open
    ours: set[int] = set()   # how many were where a value of telemetry's began that goes on
    for match in re.finditer(_BRACES, text):
        token = match.group()
        ours.update({len(opened)} if match.group(2) else ())
        opened += token if token in "({" else ""
        if token in "},;\n" or token == ")" and opened[-1:] == ["("]:  # the end of a value; another ) is text
            ours.discard(len(opened))
            del opened[len(opened) - (token in ")}"):]
        elif match.group(1) and (match.group(1) != "enabled" or ours and min(ours) < len(opened)):
            return True
    return False


def _says_no(section: object) -> bool:
    """Whether a parsed `telemetry` section says no. One that raises does; so does what is no mapping."""
    if isinstance(section, Mapping):
        return bool(_quietly(lambda: section.get("enabled", True) is not True, True))
    return not (section is None or section is True)


def _file_says_no(file: str, command: str) -> bool:
    """Whether a project's file says no. JSON is parsed, anything else is matched as text and never run."""
    data = _quietly(lambda: _read_bytes(file, 1024 * 1024), b"")  # one that can't be read is no answer
    if file.endswith(".json"):
        with suppress(ValueError, RecursionError):
            document = json.loads(data)
            for key in [command] * (os.path.basename(file) == "package.json") + ["telemetry"]:
                document = document.get(key) if isinstance(document, dict) else None
            return _says_no(document)
    text, is_yaml = data.decode("utf-8-sig", "ignore"), file.endswith(("yaml", "yml", "rc"))
    noise = _NOISE % (_YAML_NOISE if is_yaml else _SCRIPT_NOISE)
    text = re.sub(noise, lambda match: match["word"] or " ", re.sub("\r\n?", "\n", text.replace("\0", "")))
    return _braces_say_no(text) or is_yaml and bool(re.search(_BLOCK, text))


def _variable_refusal(product: Product, environ: Mapping[str, str]) -> str:
    """The variable that says no; empty for none. A run of pytest is not usage, unless somebody asks for it by
    naming an endpoint, or debug mode."""
    prefix = product.env_prefix
    names = ("DO_NOT_TRACK", prefix + "_DISABLED", "PYTEST_VERSION")
    found = next((name for name in names if _is_set(environ, name)), "")
    is_asked_for = found == "PYTEST_VERSION" and (
        _is_set(environ, prefix + "_DEBUG") or environ.get(prefix + "_ENDPOINT", "").strip())
    return "" if is_asked_for else found


def _project_says_no(product: Product, project: Any) -> bool:
    """Whether the project says no: in what the host parsed, else in a file in the working folder."""
    files = filter(os.path.exists, product.project_files if project is None else ())
    return _says_no(project) or any(_file_says_no(file, product.command) for file in files)


def _file_refusal(product: Product, config: _Config, path: str, debug: bool) -> str:
    """Why the config file, or the want of one, says no; empty if it does not."""
    if config is not _MISSING:
        return "" if config.enabled else path
    if product.opt_in:
        return f"it is switched on by {product.command} telemetry enable"
    return "" if debug or _has_place(path) else f"no place for {path or 'a config file'}"


# === Context: where are we running? ===

# Variables that continuous integration services set: the documented nine, two generic ones, those of services
# which may set neither. Names as in https://github.com/watson/ci-info/blob/master/vendors.json
CI_VARIABLES = tuple("""
    GITHUB_ACTIONS GITLAB_CI CIRCLECI TRAVIS JENKINS_URL BITBUCKET_BUILD_NUMBER CODEBUILD_BUILD_ID
    TEAMCITY_VERSION BUILDKITE CI CONTINUOUS_INTEGRATION TF_BUILD APPVEYOR bamboo_planKey CF_BUILD_ID DRONE
    GO_PIPELINE_LABEL HARNESS_BUILD_ID HUDSON_URL PROW_JOB_ID SCREWDRIVER TASKCLUSTER_ROOT_URL XCS""".split())
# AI coding agents, each with the variables that it sets in the shells it runs; earlier ones win, because some
# set another's, too. From @vercel/detect-agent 1.2, am-i-vibing 0.5, std-env 4.3 and huggingface_hub 1.12.
AGENTS = MappingProxyType({agent: tuple(variables) for agent, *variables in map(str.split, """
    antigravity ANTIGRAVITY_AGENT; auggie AUGMENT_AGENT; cline CLINE_ACTIVE; cowork CLAUDE_CODE_IS_COWORK;
    amp AMP_CURRENT_THREAD_ID; claude_code CLAUDECODE CLAUDE_CODE; crush CRUSH; gemini_cli GEMINI_CLI;
    codex CODEX_SANDBOX CODEX_CI CODEX_THREAD_ID; qwen_code QWEN_CODE; copilot COPILOT_CLI COPILOT_AGENT;
    goose GOOSE_TERMINAL; kilo_code KILOCODE_FEATURE; openclaw OPENCLAW_SHELL;
    opencode OPENCODE OPENCODE_CLIENT; pi PI_CODING_AGENT; roo_code ROO_ACTIVE; trae TRAE_AI_SHELL_ID;
    hermes HERMES_SESSION_ID; cursor CURSOR_AGENT CURSOR_TRACE_ID; replit REPL_ID;
    devin; jules; junie; kiro; v0""".split(";"))})
# The first word of an agent's name, which AI_AGENT or AGENT may spell as claude-code, goose@1.2 or amp/7.
_AGENT_WORDS = MappingProxyType({**{agent.partition("_")[0]: agent for agent in AGENTS},
                                 "augment": "auggie", "github": "copilot"})
_PROCESS_START = time.time()  # seconds since 1970; whole ones are GA4's session id
# The category of an exception by the name of its class or a base class: so none of them has to be imported.
_ERROR_NAMES = MappingProxyType({name: category for category, *names in map(str.split, """
    file_not_found FileNotFoundError NotADirectoryError; interrupted KeyboardInterrupt CancelledError Abort;
    network_error ConnectionError TimeoutError timeout gaierror herror URLError HTTPError SSLError
        HTTPException RequestException TransportError; permission_error PermissionError;
    parse_error JSONDecodeError TOMLDecodeError SyntaxError UnicodeError YAMLError ParseError ParserError
        ParsingError ExpatError BadZipFile;
    validation_error ValidationError SchemaError UsageError ArgumentError ArgumentTypeError ValueError;
    configuration_error ConfigError ConfigurationError""".split(";")) for name in names})


def _plain(value: Any) -> str:
    """The characters of a text as an exact `str`, by no method of its own, because it may lie; else empty."""
    return str.__getitem__(value, slice(None)) if issubclass(type(value), str) else ""


def is_ci(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a continuous integration service runs us, by the variables it sets. `CI=false` beats all."""
    is_denied = environ.get("CI", "").strip() and not _is_set(environ, "CI")
    return not is_denied and any(_is_set(environ, variable) for variable in CI_VARIABLES)


def _agent(environ: Mapping[str, str] = os.environ) -> str:
    """The AI coding agent that runs us: a word of `AGENTS`, "other" for one that we don't know, or "none"."""
    generic = ("AI_AGENT", "AGENT")
    named = [_AGENT_WORDS.get(re.split("[^a-z0-9]", environ.get(name, "").lower())[0]) for name in generic]
    seen = [agent for agent, names in {**AGENTS, "other": generic}.items()
            if any(_is_set(environ, name) for name in names)]
    return next(filter(None, [*named, *seen]), "none")


def input_source(value: Any) -> str:
    """Where an input lies: "remote_url", "local_relative" or "local_absolute". Never raises, touches no file.
    Windows drives and UNC paths are absolute on every system, and so are `file:` URLs and `~`."""
    text = _plain(_quietly(lambda: os.fsdecode(value), value)).strip()
    is_absolute = re.match(r"(?i)(file:[/\\]|[a-z]:|[/\\~])", text)
    is_remote = re.match(r"[A-Za-z0-9+.-]{2,}:[/\\]|[A-Za-z0-9._-]+@[A-Za-z0-9._-]+:", text)
    return "local_absolute" if is_absolute else "remote_url" if is_remote else "local_relative"


def _is_exit(exc: object) -> bool:
    """Whether this exception ends a program as it should: `SystemExit`, or click's and typer's `Exit`."""
    return issubclass(type(exc), SystemExit) or type(exc).__name__ == "Exit" and hasattr(exc, "exit_code")


def error_type(exc: object) -> str:
    """The category of an exception, of `ERROR_TYPES`, by its type and never by its message. An exit has that
    of the exception it was raised from or during, a group that of its first member that has one; one
    KeyboardInterrupt in it makes a group "interrupted". Never raises."""
    def class_names() -> Iterator[str]:
        todo, looks = [exc], count()
        while todo and next(looks) < 10_000:  # a chain may be a circle
            error: Any = todo.pop()
            members = getattr(error, "exceptions", None)
            if isinstance(members, (tuple, list)):
                todo += reversed(members)
            elif _is_exit(error):
                todo.append(error.__context__ if error.__cause__ is None else error.__cause__)
            else:
                for base in (error if isinstance(error, type) else type(error)).__mro__:
                    yield "ConfigError" if base.__module__ == "configparser" else _plain(base.__name__)

    names: list[str] = _quietly(lambda: [*class_names()], [])
    found = [_ERROR_NAMES[name] for name in names if name in _ERROR_NAMES]
    return "interrupted" if "KeyboardInterrupt" in names else [*found, "unknown_error"][0]


# === Events: what may leave? ===

_MAX_NUMBER = 10 ** 9
_MAX_ITEMS = 1000  # of a list or mapping that we look at: it may be endless
_WORD = "(?!([^0-9]*[0-9]){4})[a-z][A-Za-z0-9_-]{0,31}"  # too short for a path, too few digits for an ID


def _words(kind: Any, value: Any) -> str:
    """A word, or words joined by commas in their order and once each; "other" for each that may not leave."""
    is_list = kind == "words" or isinstance(kind, _Several)
    fits = kind.__contains__ if isinstance(kind, tuple) else re.compile(_WORD).fullmatch
    is_one = not is_list or isinstance(value, (str, bytes)) or not isinstance(value, Iterable)
    items = () if is_list and value is None else (value,) if is_one else value
    words = {}  # a set would keep no order
    for text in map(_plain, islice(items, _MAX_ITEMS)):
        forms = (text, text.lstrip("-").partition("=")[0]) if is_list else (text,)  # a flag without its value
        words[next(filter(fits, forms), "other")] = True
    return ",".join(words) or "none"


def _number(value: Any, least: int = 0) -> int | float:
    """The number, numpy's too, as an exact one. Raises TypeError, ValueError if it may not leave."""
    number = float.__add__(value, 0.0) if issubclass(type(value), float) else int.__add__(index(value), 0)
    if type(value) is bool or not least <= number <= _MAX_NUMBER:  # which is so for NaN, too
        raise ValueError("it is no number that may leave")
    return number


def _shaped(name: str, kind: Any, value: Any) -> dict[str, Any]:
    """What may leave of a parameter, by name, and None for what may not. Raises any error if nothing may."""
    if kind == "flag":
        return {name: value if type(value) is bool else None}
    if kind in ("count", "milliseconds"):
        return {name: round(_number(value))}
    if isinstance(kind, (str, tuple)):
        return {name: _words(kind, value)}
    shaped: dict[str, Any] = {}
    for option, held in islice(value.items(), _MAX_ITEMS):
        option, text = _plain(option), _plain(held)
        key = f"{name}_{option}".replace("-", "_")
        if not (re.fullmatch(_WORD, option) and re.fullmatch(_NAME, key)) or key in _FIXED_KINDS:
            shaped[key] = None
        elif issubclass(type(held), str):
            shaped[key] = text if text in kind.get(option, ()) else "custom"
        else:
            shaped[key] = held if type(held) is bool else _quietly(partial(_number, held, -_MAX_NUMBER), None)
    return shaped


def _checked(declared: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What may leave of these parameters, and what was dropped and why."""
    kept: dict[str, Any] = {}
    dropped = [f"{ascii(name)[:60]} is not declared" for name in params if name not in declared]
    room = _MAX_PARAMS - len(declared)
    for name in filter(params.__contains__, declared):
        room += 1  # its own place; what remains is for options
        shaped = _quietly(partial(_shaped, name, declared[name], params[name]), {name: None})
        for key, value in shaped.items():
            if value is None:
                dropped.append(f"{ascii(key)[:60]} is not of its kind")
            elif not room or key != name and key in declared:
                dropped.append(f"{key} has no room")
            else:
                kept[key], room = value, room - 1
            if isinstance(value, str) and len(value) > _MAX_TEXT:  # many words, so its own place is kept
                kept[key] = value[:_MAX_TEXT + 1].rpartition(",")[0]
                dropped.append(f"{key} is longer than {_MAX_TEXT} characters, the last words")
    return kept, dropped


def _time_stamp() -> int:
    """The moment of recording in microseconds since 1970, some milliseconds early: a process begins at a
    random place in a slot of time, and its next events take the next places. So they are unique in it, and in
    practice among those that share a home, keep their order, and tell nothing but the time."""
    slot, now = 4000, int(_wall_time() * 1e6)
    place = crc32(_RUN + b"%d" % os.getpid()) % slot + next(_Clock.ticks)
    return max(now - now % slot - 2 * slot, 0) + place


def _event(name: str, params: dict[str, Any], declared: Mapping[str, Any], version: str, ci: bool,
           agent: str) -> dict[str, Any]:
    """The event as GA4 takes it."""
    spent = [int(params[key]) for key, kind in declared.items() if kind == "milliseconds" and key in params]
    return {"name": name, "timestamp_micros": _time_stamp(), "params": {
        **params, "cli_version": version, "python_version": "%d.%d.%d" % sys.version_info[:3],
        "os": sys.platform, "ci": ci, "agent": agent, "session_id": max(1, int(_PROCESS_START)),
        "engagement_time_msec": max([1] + spent)}}


# === Wire: what does it look like outside? ===

# Where events go, and for whom. `source` named it; `problem` is empty, or why there is no destination; `key`
# is eight hexadecimal digits that stand for endpoint and measurement ID in the names of files; `at_once`
# holds in CI and where a variable names the destination: such events know no hold and no rest.
_Destination = namedtuple("_Destination", "source endpoint measurement_id api_secret client_id agent problem "
                                          "key at_once", defaults=("", "", "", "", "", "", "", False))
# With host and port; no user name, raw blanks, ", <, > or backslashes. urllib.parse takes time to load.
_URL = (r"[Hh][Tt][Tt][Pp][Ss]?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?"
        r"(?:[/?#][!#-;=?-\[\]-~]*)?")
_HEADERS = frozenset(("host", "connection", "accept-encoding", "content-type", "content-length", "user-agent",
                      "proxy-authorization"))  # that leave
_KEPT_4XX = frozenset((401, 403, 404, 407, 408, 425, 429))  # a mistake of the operator, or of the moment
_NO_ANSWER = (0, 0.0)  # else the status, and the seconds that Retry-After asks for
_CUT = (-1, 0.0)  # the exit did not wait for the answer
_LAST_PAUSE = 86400.0  # seconds; no pause is longer, whatever an answer asks for


def _destination(product: Product, environ: Mapping[str, str], config: _Config, ci: bool,
                 agent: str) -> _Destination:
    """Where events go now, or why nowhere. The first destination that is set counts; Google's with a
    placeholder for its ID is not set. An ID and a secret stay with the endpoint that they came with."""
    placeholder, problem = _CODEGEN["tracking_id"], ""
    named = [environ.get(product.env_prefix + end, "").strip() for end in ("_ENDPOINT", "_ID", "_API_SECRET")]
    their_endpoint, their_id, secret = config.endpoint, config.tracking_id or placeholder, product.api_secret
    if their_endpoint == product.endpoint and their_id in (placeholder, product.tracking_id):  # an old copy
        their_endpoint, secret = "", secret or config.api_secret
    for source, endpoint, tracking_id, api_secret in (
            ("environment", *named), ("config file", their_endpoint, their_id, config.api_secret),
            ("product", product.endpoint, product.tracking_id, secret)):
        url, measurement_id = re.fullmatch(_URL, endpoint), "" if tracking_id == placeholder else tracking_id
        host = url.group(1).lower().rstrip(".") if url else ""
        is_google = f".{host}".endswith(".google-analytics.com")
        if endpoint and not (is_google and tracking_id == placeholder):
            break
    if not url or int(url.group(2) or 0) > 65535:
        problem = "endpoint is no http:// or https:// URL of plain ASCII without a user name"
    elif is_google and not (measurement_id and api_secret):
        problem = "measurement ID or secret is missing, and Google Analytics needs both"
    key = "%08x" % crc32(f"{endpoint}\n{measurement_id}".encode(errors="replace"))
    return _Destination(source, endpoint, measurement_id, api_secret, config.client_id, agent,
                        problem and f"the {source}'s {problem}", key, ci or source == "environment")


def _masked(url: str) -> str:
    """The URL without its fragment, and `***` for every value in its query but that of `measurement_id`."""
    base, mark, query = url.partition("#")[0].partition("?")
    return base + mark + re.sub("(^|[&;])(?!measurement_id=)([^&;=]*=)?[^&;]+", r"\1\2***", query)


def _request(to: _Destination, events: list[dict[str, Any]]) -> tuple[str, dict[str, str], bytes]:
    """URL, headers and body of the POST that delivers these events, at most 25 of them."""
    from urllib.parse import quote  # only where something is about to be sent or shown
    base, _, query = to.endpoint.partition("#")[0].partition("?")
    parts = [part for part in query.split("&") if part]
    for name in ("measurement_id", "api_secret"):
        value = quote(getattr(to, name), safe="", errors="replace")
        parts += [f"{name}={value}"] if value else []
    body = json.dumps({"client_id": to.client_id, "events": events}, allow_nan=False).encode("ascii")
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "User-Agent": to.agent}
    return base + "?" * bool(parts) + "&".join(parts), headers, body


def _retry_seconds(text: Any) -> float:
    """The seconds that a Retry-After header asks for, from one to a day's. Raises any error for rubbish."""
    from email.utils import mktime_tz, parsedate_tz  # loaded with the network code
    date = parsedate_tz(text)
    return float(min(max(mktime_tz(date) - time.time() if date else int(text), 1), _LAST_PAUSE))


# === Outbox: what waits? ===

_MAX_WAITING = 500
_MAX_AGE = 28 * 86400.0    # seconds; GA4 moves the time of what is older than 72 hours, and counts it
_MAX_BATCH = 25            # GA4's limit of events a request
_MAX_EVENT = 5000          # bytes; 25 of them stay below GA4's 130 kB
_MINUTE = 60.0             # of a hold, of a rest, and of a pause that counts as no failure
_FIRST_PAUSE = 600.0       # seconds without a try after a failure
_BOUND_TO = ("endpoint", "measurement_id", "client_id")  # an event is sent only where these are the same
_EVENT = "[0-9]{16}(-[0-9a-fA-F]{8}){3}[.]json"
_NAME_LENGTH = 48          # of what matches
_CLAIM = f"{_EVENT}[.][0-9a-f]{{8}}-[0-9]+[.]claim"
_STATE = "(hold|[0-9a-f]{8})[.]state"
_PASSING = f"{_CLAIM}|done[.][0-9a-f]{{8}}-[0-9]+|{_STATE}|({_EVENT}|{_STATE}){_TEMPORARY}"  # age: the file's
_OURS = f"{_EVENT}|{_PASSING}"
# Why nothing is tried: the word of `status` for each reason, and how long it lasts at most.
_REASONS = MappingProxyType({"notice": ("hold", _MINUTE), "failed": ("pause", _LAST_PAUSE),
                             "cut": ("pause", _MINUTE), "delivered": ("rest", _MINUTE)})
_State = namedtuple("_State", "why until failures", defaults=("", 0.0, 0))


class _Outbox:
    """Events that wait on disk, shared by every process of a user; renaming is the only lock.

    - `<microseconds>-<client>-<destination>-<random>.json`: an event that waits
    - the same with `.<process>.claim`: an event that a process is sending
    - `done.<process>`: its claims are delivered, and it is just deleting them
    - `<destination>.state`: why nothing is tried and until when, a pause or a rest; failures in a row
    - `hold.state`: the same for every destination, because the first-run notice was just shown
    - `*.tmp`: a file being written
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder  # an empty text, when there is no place, is no folder to the system

    def path(self, name: str = "") -> str:
        return os.path.join(self._folder, name)

    def claim(self, name: str) -> str:
        """The path of an event's file while this object, of several in a process, is sending it."""
        return self.path(f"{name}.{_token()}{id(self)}.claim")

    def names(self, pattern: str) -> list[str]:
        """What lies here and matches, oldest first. Raises OSError if the folder can't be read."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(filter(re.compile(pattern).fullmatch, os.listdir(self._folder)))
        return []

    def waiting(self, to: _Destination) -> list[str]:
        """Names of the events that wait for this client and destination, oldest first."""
        return self.names(f"[0-9]{{16}}-{to.client_id[:8]}-{to.key}-[0-9a-f]{{8}}[.]json")

    def present(self) -> set[str]:
        """Names of all events, being sent or not; of two looks, because one may miss what is just renamed."""
        return {name[:_NAME_LENGTH] for _ in range(2) for name in self.names(f"{_EVENT}|{_CLAIM}")}

    def put(self, to: _Destination, event: dict[str, Any]) -> str:
        """Write an event, complete or not at all, and return its name. Raises OSError, ValueError."""
        stamp = event["timestamp_micros"]
        name = f"{stamp:016d}-{to.client_id[:8]}-{to.key}-{os.urandom(4).hex()}.json"
        record = {**{part: getattr(to, part) for part in _BOUND_TO}, "event": event}
        _store(self.path(name), json.dumps(record, allow_nan=False).encode())
        if stamp % 50 == 0:  # one of fifty in a row, because a look at a full outbox takes its time
            self.tidy(to.client_id)
        return name

    def tidy(self, client_id: str) -> None:
        """Delete what is old, foreign, or too much; give back claims of who is gone. Raises OSError."""
        oldest = f"{max(0.0, _wall_time() - _MAX_AGE) * 1e6:016.0f}"  # an event is as old as its stamp says
        for number, name in enumerate(reversed(self.names(_EVENT))):
            if number >= _MAX_WAITING or name < oldest or name[17:25] != client_id[:8]:
                _unlink(self.path(name))
        for name in self.names(_PASSING):
            path, longest = self.path(name), _MAX_AGE if name.endswith("state") else _STALE_SECONDS
            if _age(path) > longest and _token() not in name:
                if name.endswith("claim") and not os.path.exists(self.path("done." + name.split(".")[2])):
                    _quietly(partial(_patiently, os.replace, path, self.path(name[:_NAME_LENGTH])), None)
                else:
                    _unlink(path)

    def take(self, to: _Destination, own: set[str]) -> dict[str, Any]:
        """Claim up to 25 events, those named `own` first, and delete what is damaged: the events by name."""
        events: dict[str, Any] = {}
        for name in sorted(self.waiting(to), key=lambda waiting: waiting not in own):
            try:
                record = json.loads(_read_bytes(self.path(name)))
                size = len(json.dumps(record["event"], allow_nan=False))  # which raises for NaN
                is_ours = all(record[part] == getattr(to, part) for part in _BOUND_TO)
                if not (is_ours and isinstance(record["event"], dict) and size <= _MAX_EVENT):
                    raise ValueError("we have not written this")
                now = time.time()  # by our clock, because a claim is as old as its file
                _quietly(partial(os.utime, self.path(name), (now, now)), None)
                os.rename(self.path(name), self.claim(name))
                events[name] = record["event"]
            except OSError:
                pass  # another process takes it first, or it can't be taken
            except (ValueError, KeyError, TypeError, RecursionError):
                _unlink(self.path(name))
            if len(events) == _MAX_BATCH:
                break
        return events

    def mark_done(self) -> None:
        """Put up a marker, by which others delete what we have claimed if a kill keeps us from it."""
        _quietly(lambda: os.close(os.open(self.path(f"done.{_token()}{id(self)}"), os.O_CREAT, 0o600)), None)

    def release(self, events: Iterable[str], is_done: bool) -> None:
        """Delete events that we have claimed, or let them wait again."""
        for name in events:
            back = () if is_done else (self.path(name),)
            _quietly(partial(_patiently, os.replace if back else os.unlink, self.claim(name), *back), None)
        _unlink(self.path(f"done.{_token()}{id(self)}"))

    def clear(self, pattern: str = _OURS) -> None:
        """Delete what is here of ours, or what matches. Raises OSError if something stays."""
        for _ in range(10):  # because others rename meanwhile
            if not (names := self.names(pattern)):
                _quietly(partial(os.rmdir, self._folder), None)  # something else may be in it
                return
            for name in names:
                _unlink(self.path(name))
        raise OSError(f"its outbox can't be emptied: {self._folder}")

    def state(self, name: str) -> _State:
        """The hold, pause or rest that is stored, with an empty `why` if it is over: also one that would last
        longer than its kind may, because the clock was set back. A hold is never over in its own run."""
        with suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            record = json.loads(_read_bytes(self.path(name + ".state")))
            why, until, failures = record["why"], float(record["until"]), max(0, int(record["failures"]))
            left, is_this_run = until - _wall_time(), why == "notice" and record["process"] == _token()
            is_on = is_this_run or 0 < left <= _REASONS[why][1] + 1  # 1, because sums are rounded
            return _State(why if is_on else "", until, failures)
        return _State()

    def obstacle(self, to: _Destination) -> _State:
        """What keeps a destination's events here; an empty state for nothing. A rest keeps fewer than 25."""
        for state in map(self.state, [to.key] if to.at_once else ["hold", to.key]):
            is_over = state.why == "delivered" and (to.at_once or len(self.waiting(to)) >= _MAX_BATCH)
            if state.why and not is_over:
                return state
        return _State()

    def begin(self, name: str, why: str, seconds: float, failures: int = 0) -> None:
        """Store that nothing is tried from now on. Raises OSError."""
        record = {"why": why, "until": _wall_time() + seconds, "failures": failures, "process": _token()}
        _store(self.path(name + ".state"), json.dumps(record).encode())

    def conclude(self, to: _Destination, why: str, asked: float) -> None:
        """Begin what follows a request: a rest, where the destination knows one; a pause of 10 minutes,
        doubled with each failure in a row, or of `asked` seconds if not 0; for a request that was cut, one of
        a minute, which counts as no failure. Raises OSError."""
        failures = self.state(to.key).failures
        if why == "failed":
            seconds = asked or min(_FIRST_PAUSE * 2 ** min(failures, 8), _LAST_PAUSE)
            self.begin(to.key, why, seconds, failures + 1)
        elif why == "delivered" and to.at_once:
            _unlink(self.path(to.key + ".state"))
        else:
            self.begin(to.key, why, _MINUTE, failures if why == "cut" else 0)


# === Sender: how does it leave? ===

_REQUEST_SECONDS = 1.0
_FAIR_SECONDS = 0.25  # a request that the exit cuts sooner proves nothing, so none begins with less left
_Request = namedtuple("_Request", "to events began")  # on its way: the events by name, and since when


def _bounded(kind: Any, end: float, *operations: str) -> Any:
    """A class of sockets each of whose operations may take what is left of the second, and no more."""
    def bound(operation: Any) -> Any:
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            self.settimeout(end - _Clock.now())  # which raises ValueError when nothing is left
            return operation(self, *arguments, **options)
        return call
    return type(kind.__name__, (kind,), {name: bound(getattr(kind, name)) for name in operations})


def _connected(end: float, address: tuple[str, int], *ignored: object) -> Any:
    """A socket to one of the host's addresses, each of which gets its share of what is left, so that dead
    ones don't use it up. A name look-up can't be interrupted: what comes late finds its time gone."""
    import socket
    kind = _bounded(socket.socket, end, "sendall", "recv_into")
    found = socket.getaddrinfo(*address, 0, socket.SOCK_STREAM)
    for number, (*family, _, place) in enumerate(found):
        connection, share = None, (end - _Clock.now()) / (len(found) - number)
        with suppress(OSError):  # there is no such socket to be had, or nobody answers
            connection = kind(*family)
            connection.settimeout(max(share, 0.001))
            if connection.fileno() > 2:  # else it stands in the place of a closed standard stream
                connection.connect(place)
                return connection
        if connection:
            connection.close()
    raise OSError("no address of the host answers")


def _connection_class(scheme: str, query: str, may_post: Callable[[], bool], end: float) -> Any:
    """A class of HTTP connections that end when the clock shows `end`, and send no header but ours. They
    alone know the URL's query with the secret, because what a host has patched in writes URLs into traces."""
    from http import client
    kind: Any = client.HTTPSConnection if scheme == "https" else client.HTTPConnection
    response: Any = client.HTTPResponse
    class Response(response):  # type: ignore[misc]
        def _read_status(self) -> Any:
            version, status, reason = super()._read_status()
            return version, status if status >= 200 else 100, reason  # 100 is passed over

    class Connection(kind):  # type: ignore[misc]
        response_class = Response
        def connect(self) -> None:
            self._create_connection = partial(_connected, end)
            super().connect()
            if not may_post():
                raise TimeoutError("too late, or no longer allowed")

        def _encode_request(self, request: str) -> Any:  # the first line
            return super()._encode_request(request.replace(" HTTP/", query + " HTTP/"))

        def putheader(self, header: Any, *values: Any) -> None:
            if str(header).lower() in _HEADERS:  # else a patch of the host's has added it
                super().putheader(header, *values)

    return Connection


def _post(to: _Destination, events: list[dict[str, Any]], may_post: Callable[[], bool],
          end: float) -> tuple[int, float]:
    """Send one request, if we still may once the connection stands: the status, and what Retry-After asks.
    It is over when the clock shows `end`. Whatever opens a socket is called from here. Raises any error."""
    from urllib import request as urllib
    url, headers, body = _request(to, events)
    base, mark, query = url.partition("?")
    scheme, more = base.partition(":")[0].lower(), {}
    if scheme == "https":
        import ssl
        more["context"] = context = ssl.create_default_context()
        context.sslsocket_class = _bounded(context.sslsocket_class, end, "do_handshake", "send", "recv_into")
    # Whatever a host has set: proxies from the environment alone (asking macOS for its settings may crash a
    # forked child), verified certificates, no redirects, no exception for a status, no debug output (0), and
    # no public `open`, which is traced. `UnknownHandler` raises for a proxy that urllib does not speak with.
    opener: Any = urllib.OpenerDirector()
    handler: Any = urllib.AbstractHTTPHandler(0)
    connection = _connection_class(scheme, mark + query, may_post, end)
    setattr(handler, f"{scheme}_open", partial(handler.do_open, connection, **more))
    proxies = {name: proxy for name, proxy in urllib.getproxies_environment().items() if name == scheme}
    for each in (urllib.ProxyHandler(proxies), urllib.UnknownHandler(), handler):
        opener.add_handler(each)
    request = urllib.Request(base, body, headers)
    request.timeout = _REQUEST_SECONDS  # which `open` would set
    with opener._open(handler.do_request_(request)) as response:
        return response.status, _quietly(lambda: _retry_seconds(response.headers["Retry-After"]), 0.0)


def _can_start() -> bool:
    """Whether a thread can begin and open a socket: not at the end of the main thread, with a stack so small
    that it ends the process, or where a standard stream is closed, whose place the socket would take."""
    main, size = threading.main_thread(), threading.stack_size()
    threading.stack_size(size)  # because to ask for it sets it to 0, for the host's threads, too
    is_over = sys.is_finalizing() or threading.current_thread() is main and not main.is_alive()
    has_streams = os.name == "nt" or _quietly(lambda: all(map(os.fstat, (0, 1, 2))), False)
    return bool(has_streams and not is_over and not 0 < size < 2 ** 18)  # bytes


def _fork_lock() -> Any:
    """A lock that no fork finds held. What our thread loads under it locks modules, and a module's lock that
    is held in a fork is held in the child for ever."""
    lock = threading.RLock()
    release = partial(_quietly, lock.release, None)  # it raises where the fork began before we registered
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=release, after_in_child=release)
    return lock


def _load_network_code(starter: int = 0) -> bool:
    """Import what a request needs, and let our thread (a greenlet has none, it runs in that of its `starter`)
    take no signal but those of a crash: not even SIGPIPE, by which a lost connection may end a process."""
    import signal
    if starter and hasattr(signal, "pthread_sigmask") and threading.get_native_id() != starter:
        crashes = {getattr(signal, "SIG" + name) for name in "SEGV BUS FPE ILL ABRT SYS TRAP".split()}
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - crashes)
    if sys.version_info < (3, 9):  # whose threads load this at their end, and abort where they can't
        with suppress(ImportError, MemoryError, OSError):  # the second where callbacks are forbidden
            import ctypes
            ctypes.CDLL("libgcc_s.so.1")
    import calendar  # for dates
    from encodings import ascii, idna  # for requests, on PyPy, and for name look-ups
    import urllib.request
    return True


class _Sender:
    """Sends what waits on one daemon thread of a process. The thread and the exit share one value, the
    request that is on its way: either of them settles it, once."""

    def __init__(self, outbox: _Outbox, look: Callable[[], _Destination | None]) -> None:
        self.outbox, self._look = outbox, look  # `look` tells where the user lets events go now
        self._lock = threading.RLock()   # guards what follows; reentrant, because signal handlers may record
        self._thread: threading.Thread | None = None  # that runs, or is about to
        self._on_its_way: Any = None     # a _Request
        self._own: set[str] = set()      # events of this object that are not known to be delivered
        self._lost = False               # one could not be written, was refused, or is gone undelivered
        self._leave_by = float("inf")    # when the exit stops waiting
        self.loading = _fork_lock()      # held while the network code loads

    def record(self, to: _Destination, event: dict[str, Any]) -> bool:
        """Put an event into the outbox, as one of this run: whether it could be written, else it is lost."""
        name = _quietly(partial(self.outbox.put, to, event), None)
        with self._lock:
            if len(self._own) >= 2 * _MAX_WAITING:  # then many are gone: delivered by others, or too much
                self._own &= self.outbox.present()
            self._own.update([name] if name else [])
            self._lost |= not name
            return bool(name)

    def start(self) -> bool:
        """See to it that the thread runs: whether it does. Else what waits is left to the next run."""
        with self._lock:
            if not self._thread and self._leave_by == float("inf") and _can_start():
                run = partial(self._run, threading.get_native_id())
                self._thread = threading.Thread(None, run, "telemetry", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    self._thread = None
            return self._thread is not None

    def _run(self, starter: int) -> None:
        """The thread: claim, post, settle, until nothing may be sent or a request fails, which the host never
        sees. It loads first, because an exit that came in the middle would leave a claim behind."""
        with self.loading:
            goes_on = _quietly(partial(_load_network_code, starter), False)
        while True:
            with self._lock:  # the look for events and the end are one step, so that none falls between
                request = _quietly(self._claim, None) if goes_on else None
                if not request:
                    self._thread = None
                    return
                self._on_its_way = request
            post = partial(_post, request.to, [*request.events.values()], partial(self._is_allowed, request),
                           request.began + _REQUEST_SECONDS)
            goes_on = _quietly(partial(self._settle, request, _quietly(post, _NO_ANSWER)), False)

    def _claim(self) -> Any:
        """A request that may be sent now, or None; at the exit, only one with events of this run."""
        to, left = self._look(), self._leave_by - _Clock.now()
        if not to or self.outbox.obstacle(to).why or left < _FAIR_SECONDS:
            return None
        self.outbox.tidy(to.client_id)
        is_wanted = left == float("inf") or not self._own.isdisjoint(self.outbox.waiting(to))
        events = self.outbox.take(to, self._own) if is_wanted else {}
        return _Request(to, events, _Clock.now()) if events else None

    def _is_allowed(self, request: Any) -> bool:
        """Whether a request may still be sent: it was not settled, no user, hold or pause says no meanwhile,
        and no other process has taken an event over. A rest that began meanwhile does not stop it."""
        return (self._on_its_way is request and self._look() == request.to
                and all(os.path.exists(self.outbox.claim(name)) for name in request.events)
                and self.outbox.obstacle(request.to).why in ("", "delivered"))

    def _settle(self, request: Any, answer: tuple[int, float]) -> bool:
        """Delete or keep the events of a request, once, by its answer: whether that delivered them."""
        status, asked = answer
        why = "delivered" if 200 <= status < 300 else "cut" if answer is _CUT else "failed"
        is_refused = 400 <= status < 500 and status not in _KEPT_4XX
        is_done = is_refused or why == "delivered"
        with self._lock:
            if self._on_its_way is not request:
                return False
            if is_done:
                self.outbox.mark_done()
            if self._is_allowed(request):  # first, because others take an event that is gone for delivered
                _quietly(partial(self.outbox.conclude, request.to, why, asked), None)
            self._on_its_way = None
            self._lost |= is_refused and not self._own.isdisjoint(request.events)
            self._own.difference_update(request.events if is_done else ())
            self.outbox.release(request.events, is_done)
        return why == "delivered"

    def flush(self, timeout: float) -> bool:
        """Wait until what this object has recorded is delivered: True; False as soon as that can't be."""
        deadline, due = _Clock.now() + timeout, self._own.copy()  # for others may go on recording
        while not due.isdisjoint(self._own):
            with self._lock:
                to = self._look()
                why = self.outbox.obstacle(to).why if to else "no"
                is_open = why in ("", "delivered")
                gone = self._own - self.outbox.present()  # delivered by others, or else deleted
                self._own -= gone
                self._lost |= any(not (to and is_open and name[17:25] == to.client_id[:8]) for name in gone)
                if to and why == "delivered" and self._own:  # a flush ends a rest
                    _unlink(self.outbox.path(to.key + ".state"))
                if due.isdisjoint(self._own) or not (is_open and _Clock.now() < deadline and self.start()):
                    break  # else the thread also takes over what the dead left
            threading.Event().wait(0.01)
        with self._lock:  # so that who settles has come to the end
            return due.isdisjoint(self._own) and not self._lost

    def leave(self, wait: float) -> None:
        """Let the thread send this run's events for so many seconds, then settle what is still on its way."""
        with suppress(KeyboardInterrupt, SystemExit):  # of a signal handler
            with self._lock:  # so that no claim is being made
                self._leave_by = _Clock.now() + wait
            while self._thread and (self._own or self._on_its_way) and _Clock.now() < self._leave_by:
                # In slices, because Windows lets no Ctrl-C through a wait; under eventlet a `join` raises.
                threading.Event().wait(0.002)
        self._leave_by = 0.0  # from here on no request begins
        with suppress(KeyboardInterrupt, SystemExit, OSError), self._lock:  # held until all is settled
            request = self._on_its_way
            if request:
                self._settle(request, _NO_ANSWER if _Clock.now() - request.began >= _FAIR_SECONDS else _CUT)
            to = self._look() if self._own else None
            if to:
                self.outbox.tidy(to.client_id)  # the last of many processes leaves no more than may wait


# === Telemetry: what the tool calls ===

# What we look at first. `is_due`: the notice has to be shown; `way`: where the user lets events go, or None.
_Situation = namedtuple("_Situation", "refusal debug config to is_due way",
                        defaults=(_MISSING, None, False, None))
_CAPTURED = _Situation("", False, _Config("", _NEW, True, True, "nobody"))  # in the tests of a host


def _say(name: str, text: str) -> bool:
    """Write to `stdout` or `stderr`, with `?` for what it can't print: whether every byte was written. What
    the host has put in place of a stream is written to by its own `write`."""
    def write() -> bool:
        stream: Any = getattr(sys, name)
        plain = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        if not "┌".encode(encoding, "ignore"):  # the frame of the notice
            plain = plain.translate(str.maketrans("┌─┐│└┘", "+-+|++"))
        data = plain.encode(encoding, "replace")
        if type(stream) is not TextIOWrapper:
            written = stream.write(data.decode(encoding))
            getattr(stream, "flush", bool)()
            return type(written) is not int or not 0 < written < len(plain)  # a display that waits says 0
        stream.flush()
        # Past the buffer: what stays in it after an error fails again at the exit, and changes its code.
        raw: Any = getattr(stream.buffer, "raw", stream.buffer)
        while data:
            written = raw.write(data)
            if not written:  # it is full, and does not block
                return False
            data = data[written:]
        return True
    return bool(_quietly(write, False))  # it may be closed, or the host's own object


def _is_terminal() -> bool:
    """Whether standard error is a terminal, or a display in its place that does not know that it is one."""
    def found() -> bool:
        if os.name == "nt":  # for which NUL is one, too, but has no size, which raises
            os.get_terminal_size(sys.stderr.fileno())
        return sys.stderr.isatty() is True or os.isatty(sys.stderr.fileno())
    return bool(_quietly(found, False))


def _notice(product: Product) -> str:
    """The first-run notice in its frame."""
    lines = ["", f"{product.name} collects anonymous usage data", "to help us improve the tool.", "",
             f"To disable: {product.opt_out}",
             *[f"Learn more: {product.docs_url}"] * bool(product.docs_url), ""]
    width = max(map(len, lines)) + 3
    rows = [f"│{('  ' + line).ljust(width)}│" for line in lines]
    return "\n".join(["┌" + "─" * width + "┐", *rows, "└" + "─" * width + "┘", ""])


def _look(product: Product, path: str, ci: bool, agent: str, project_says_no: Callable[[], bool],
          at_all: bool = False, environ: Mapping[str, str] = os.environ) -> _Situation:
    """Look at environment, project and config file; at no file where the environment says no. `status` looks
    `at_all`: at the files even then, and without asking whether anybody can see the notice."""
    refusal = _variable_refusal(product, environ)
    debug = _is_set(environ, product.env_prefix + "_DEBUG")
    if refusal and not at_all:
        return _Situation(refusal, debug)
    config = _read_config(path)
    to = _destination(product, environ, config, ci, agent)
    is_due = not (config.notice_shown or product.opt_in or ci)
    refusal = refusal or ("project" if project_says_no() else _file_refusal(product, config, path, debug))
    if is_due and not (refusal or to.at_once or debug or at_all or _is_terminal()):
        refusal = _UNTOLD
    is_shut = refusal or debug or to.problem or not config.client_id or is_due and not to.at_once
    return _Situation(refusal, debug, config, to, is_due, None if is_shut else to)


def _explain(seen: _Situation, line: str) -> None:
    if seen.debug:
        _say("stderr", f"[telemetry] {line}\n")


def _shown(to: _Destination, event: dict[str, Any]) -> str:
    """The request that debug mode shows; without a config file it has an ID that is kept nowhere."""
    import uuid
    to = to._replace(client_id=to.client_id or str(uuid.UUID(bytes=_RUN, version=4)))
    url, fields, body = _request(to, [event])
    top = f"no destination, nothing would be sent: {to.problem}" if to.problem else f"POST {_masked(url)}"
    return "\n".join(["debug mode, nothing is sent", top, *map(": ".join, fields.items()), "", body.decode()])


def _never_raises(default: object) -> Callable[[T], T]:
    """Let a method return the default where it would raise; debug mode shows it, a host's tests get it."""
    def decorate(method: Any) -> Any:
        @wraps(method)
        def guarded(self: Any, /, *args: Any, **params: Any) -> Any:
            try:
                return method(self, *args, **params)
            except Exception as error:  # broad on purpose: telemetry never breaks its host
                telemetry = getattr(self, "_telemetry", self)
                if telemetry._captured is not None:
                    raise
                kind = error.__class__  # no call, because the stack may be full, and the error holds objects
            _quietly(lambda: _explain(telemetry._look(), f"unexpected {kind.__name__}"), None)
            return default
        return guarded
    return decorate


class _Command:
    """What `Telemetry.command` returns."""

    def __init__(self, telemetry: Telemetry, flags: Any, params: dict[str, object]) -> None:
        self._telemetry, self._flags, self._params = telemetry, flags, params
        self._began, self._failed = _Clock.now(), ""
        telemetry._check("command_executed", params)

    def update(self, /, **params: object) -> None:
        """Add what is known only later."""
        self._telemetry._check("command_executed", params)
        self._params.update(params)

    def fail(self, error: object) -> None:
        """Say that the command failed, with an exception or a category of `ERROR_TYPES`: for tools that print
        an error and return a code, or exit. Another exception that leaves the block wins over it."""
        self._failed = _plain(error) if _plain(error) in ERROR_TYPES else error_type(error)

    def __enter__(self) -> _Command:
        _quietly(self._telemetry._wake, None)  # so that loading and sending go on beside the tool's work
        self._began = _Clock.now()
        return self

    @_never_raises(None)
    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Record the command, and the category of the error that ended it or that `fail` told."""
        spent = round((_Clock.now() - self._began) * 1000)
        telemetry, passed = self._telemetry, self._params
        is_exit = error is None or _is_exit(error)
        code = _quietly(lambda: getattr(error, "exit_code", getattr(error, "code", None)), 1)
        is_success = code is None or issubclass(type(code), int) and code == 0
        category = self._failed if is_exit and (self._failed or is_success) else error_type(error)
        if category:
            passed.pop("success", None)  # which ours, a no, replaces
        seen = telemetry._record("command_executed", passed, duration=spent, flags=self._flags,
                                 success=not category)
        if category and "error_occurred" in telemetry._product.events:
            seen = telemetry._record("error_occurred", {}, command=passed["command"], error_type=category)
        telemetry._is_interrupted = category == "interrupted"
        if not telemetry._is_interrupted:
            telemetry._wake(seen)
        else:
            with telemetry._sender().loading:
                pass  # because modules that load now would make CPython forget that Ctrl-C ended the main one


class Telemetry:
    """Anonymous usage of one tool. No method raises, waits for the network or prints, except as documented.

    `version` is the tool's (letters, digits, `.+-_!`). `project` is the `telemetry` section of the project's
    own configuration, a mapping or None. `exit_wait` is how many seconds the interpreter's exit may wait.
    `captured` is for a host's tests: a list that gets every event as it would be on the wire. Then nothing is
    read, written, shown or sent, and ValueError is raised for what the product's table does not declare.
    """

    def __init__(self, product: Product = CODEGEN, *, version: str = "unknown", project: Any = None,
                 exit_wait: int | float = 1.0, captured: list[dict[str, Any]] | None = None) -> None:
        self._product, self._captured = product, captured
        self._is_closed = self._is_interrupted = False
        self._exit_wait = float(_quietly(lambda: _number(exit_wait), 0))
        is_fine = re.fullmatch("[A-Za-z0-9.+!_-]{1,64}", _plain(version))
        self._version = _plain(version) if is_fine else "unknown"
        self._path, self._ci, self._agent = _config_path(product), is_ci(), _agent()
        self._outbox = _Outbox(self._path and os.path.join(os.path.dirname(self._path), "outbox"))
        self._senders: dict[int, _Sender] = {}  # by process: a forked child starts anew
        user_agent = f"{re.sub('[^A-Za-z0-9._-]', '-', product.command)}/{self._version}"
        asked_once = lru_cache(None)(partial(_project_says_no, product, project))
        look = partial(_look, product, self._path, self._ci, user_agent, asked_once)
        self._look: Callable[..., _Situation] = look if captured is None else lambda: _CAPTURED

    @property
    def enabled(self) -> bool:
        """Whether telemetry is on."""
        return self.reason == _ON

    @property
    @_never_raises("unknown")
    def reason(self) -> str:
        """Who decided: "on by default", a variable, "project", the config file's path, "no place ..."."""
        return self._look().refusal or _ON

    @_never_raises(None)
    def track(self, event: str = "", /, **params: object) -> None:
        """Record an event of the product's table; what the table doesn't declare is dropped."""
        name = _plain(event) or _plain(params.pop("event", ""))
        self._check(name, params)
        self._wake(self._record(name, params))

    def command(self, name: str = "", /, flags: Iterable[str] = (), **params: object) -> _Command:
        """A context manager that times its block and records `command_executed`, and `error_occurred` if it
        failed. Its `update(**params)` adds what is known only later, `fail(error)` says that it failed."""
        return _Command(self, flags, {"command": _plain(name) or params.pop("name", ""), **params})

    @_never_raises(False)
    def flush(self, timeout: int | float = 1.0) -> bool:
        """Wait at most `timeout` seconds. True: all that this object recorded so far has been delivered."""
        return self._sender().flush(float(timeout))

    @_never_raises(False)
    def close(self, timeout: int | float = 1.0) -> bool:
        """Flush, then record nothing more: for hosts that end by `os._exit` or `os.exec*`."""
        began = _Clock.now()
        is_delivered, self._is_closed = self.flush(timeout), True
        atexit.unregister(self._at_exit)
        self._sender().leave(max(0.0, began + float(timeout) - _Clock.now()))  # a request may be under way
        return is_delivered

    def _sender(self) -> _Sender:
        process = os.getpid()
        if process not in self._senders:
            self._senders.setdefault(process, _Sender(self._outbox, lambda: self._look().way))
            atexit.unregister(self._at_exit)  # which a fork inherits
            atexit.register(self._at_exit)
        return self._senders[process]

    @_never_raises(None)
    def _at_exit(self) -> None:
        """Wait for this run's events, but not after Ctrl-C. A child that only inherits this has no sender."""
        sender = self._senders.get(os.getpid())
        if sender:
            sender.leave(0.0 if self._is_interrupted else self._exit_wait)

    def _wake(self, seen: _Situation | None = None) -> None:
        """See to it that the thread runs where something may go now. What waits is deleted where the config
        file says no: another program may have written that."""
        seen = seen or self._look()
        if not (seen.config.enabled or seen.config.problem or seen.config is _MISSING):
            _quietly(self._outbox.clear, None)
        elif seen.way and not self._outbox.obstacle(seen.way).why:
            self._sender().start()

    def _check(self, event: str, params: Mapping[str, object]) -> None:
        """In the tests of a host, raise ValueError for what the table does not declare."""
        declared = self._product.events.get(event)
        if self._captured is not None and (declared is None or not declared.keys() >= params.keys()):
            unknown = [f"{event}.{name}" for name in params if name not in (declared or ())]
            raise ValueError(f"{self._product.command} does not declare {', '.join(unknown) or repr(event)}")

    def _record(self, event: str, params: Mapping[str, object], **added: object) -> _Situation:
        """Check and shape an event, and deliver it: to the outbox, to a test, or in debug mode to the eye.
        Returns the situation then. What we `added` is left out where it is not declared."""
        declared, seen = self._product.events.get(event), self._look()
        if seen.refusal or self._is_closed:
            _explain(seen, f"telemetry is off: {seen.refusal or 'closed'}")
            return seen
        if declared is None:
            _explain(seen, f"dropped an event: {ascii(event)[:60]} is not declared")
            return seen._replace(way=None)  # nothing is recorded, so no thread is needed
        if not seen.debug and (seen.is_due and _is_terminal() or not seen.config.client_id):
            seen = self._introduced(seen)
        declared_additions = {name: added[name] for name in added if name in declared}
        kept, dropped = _checked(declared, {**declared_additions, **params})
        for line in dropped:
            _explain(seen, f"dropped a parameter of {event}: {line}")
        shaped = _event(event, kept, declared, self._version, self._ci, self._agent)
        if self._captured is not None:
            self._captured.append(shaped)
        elif seen.debug:
            _explain(seen, _shown(seen.to, shaped))
        elif seen.config.client_id and not (seen.refusal or seen.to.problem):  # else it may go nowhere
            seen = seen._replace(way=self._sender().record(seen.to, shaped) and seen.way)
        return seen

    def _introduced(self, seen: _Situation) -> _Situation:
        """The situation after the config file was made and the notice was shown, where they are due. Who does
        not get the lock leaves the notice to the other, and records. A failed notice leaves no new file."""
        def show(before: _Config) -> None:
            if before.enabled and not before.notice_shown:  # else another process has just shown it
                self._outbox.begin("hold", "notice", _MINUTE)  # before the mark: others keep it, too
                with _written(os.path.realpath(path), before.data) as same:
                    if _read_config(path) == before:  # else somebody has just changed it, perhaps to a no
                        _patiently(os.replace, same, os.path.realpath(path))  # raises where no mark can stand
                if not _say("stderr", _notice(self._product)):
                    raise OSError("nobody was told")

        path, is_shown, is_new = self._path, seen.is_due and _is_terminal(), False
        try:
            is_new = seen.config is _MISSING and _create_config(path)
            if not _read_config(path).client_id:
                _edit(path, {}, 0.1 if seen.config is _MISSING else 0.0)  # which gives it one
            if is_shown:
                _edit(path, {"hasShownTelemetryNotice": True}, 0.0, show)
        except (BlockingIOError, FileNotFoundError):  # the latter when another process broke our lock
            pass
        except (OSError, ValueError):
            now = _read_config(path)
            if is_shown and now.enabled and not now.notice_shown:  # else others said no, or showed it
                with suppress(OSError):
                    self._outbox.clear("hold[.]state")
                    if is_new and not seen.to.at_once:
                        os.unlink(os.path.realpath(path))
                        os.rmdir(os.path.dirname(path))
            if is_shown and not seen.to.at_once:
                return seen._replace(refusal=_UNTOLD)
        return self._look()


# === Command line: what the user calls ===

NEVER_COLLECTED = (
    "file paths or file names", "actual URLs or file locations", "file contents or schema details",
    "project names", "user names or emails", "API keys or credentials",
    "IP addresses (anonymized by the analytics provider)", "hostnames", "environment variable values",
    "Git repository information", "custom schema structures", "error messages or stack traces",
    "values of arguments")
_USAGE = """\
usage: {command} telemetry status [--json] | enable | disable

status    show whether telemetry is on, who decided, and what is collected
enable    switch it on for this user
disable   switch it off for this user, and delete what waits
"""
# The variables that count, after the product's prefix or without it, and the effect of each.
_VARIABLES = MappingProxyType({
    "DO_NOT_TRACK": "turns telemetry off", "{}_DISABLED": "turns telemetry off",
    "{}_DEBUG": "shows requests instead of sending them", "{}_ENDPOINT": "sets the destination",
    "{}_ID": "sets the destination's ID; no effect without _ENDPOINT",
    "{}_API_SECRET": "sets the destination's secret; no effect without _ENDPOINT",
    "PYTEST_VERSION": "turns telemetry off, unless an endpoint or debug mode is set"})


def _kind_text(kind: Any) -> str:
    """A kind with the words that it lets through."""
    name = "several" if isinstance(kind, _Several) else "choice"
    if isinstance(kind, (str, tuple)):
        return kind if isinstance(kind, str) else f"{name}: {', '.join(kind)}"
    return "; ".join(["options", *(f"{option}: {', '.join(kind[option])}" for option in kind)])


def _status(telemetry: Telemetry, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Everything that `status` shows, as JSON types. Reads only."""
    product, seen, outbox = telemetry._product, telemetry._look(at_all=True), telemetry._outbox
    config, to, state = seen.config, seen.to, _quietly(lambda: outbox.obstacle(seen.to), _State())
    events: list[str] = _quietly(lambda: sorted(name for name in outbox.present()
                                                if config.problem or name[17:25] == config.client_id[:8]), [])
    variables = {name.format(product.env_prefix): effect for name, effect in _VARIABLES.items()}
    return {
        "enabled": not seen.refusal, "reason": seen.refusal or _ON,
        "notice": "never shown" if product.opt_in else "still due" if seen.is_due else
                  "shown" if config.notice_shown else "not shown in CI",
        "anonymous_id": config.client_id, "ci": telemetry._ci, "agent": telemetry._agent,
        "learn_more": product.docs_url,
        "config_file": {"path": telemetry._path, "state": "does not exist yet" if config is _MISSING
                        else f"damaged: {config.problem}" if config.problem else "exists"},
        "destination": {"endpoint": "" if to.problem else _masked(to.endpoint), "source": to.source,
                        "measurement_id": "" if to.problem else to.measurement_id, "problem": to.problem},
        "waiting": {"events": len(events), "folder": outbox.path().rstrip(os.sep),
                    "since": _time_text(int(events[0][:16]) / 1e6) if events else None,
                    "kept_by": _REASONS[state.why][0] if state.why else None,
                    "until": _time_text(state.until) if state.why else None},
        "environment": {name: effect if _is_set(environ, name) or "sets" in effect and environ[name].strip()
                        else "no effect (empty, or a word for no)"
                        for name, effect in variables.items() if name in environ},
        "collected": {event: {name: _kind_text(kind) for name, kind in params.items()}
                      for event, params in product.events.items()},
        "collected_with_every_event": dict(_COMMON_PARAMS), "kinds": dict(KINDS),
        "never_collected": list(NEVER_COLLECTED),
        "turn_off": [product.opt_out, f"{product.env_prefix}_DISABLED=1", "DO_NOT_TRACK=1",
                     *(f"telemetry: {{ enabled: false }} in {file}" for file in product.project_files[:1])]}


def _status_lines(status: dict[str, Any]) -> Iterator[str]:
    """The status for people: 80 columns and ASCII, but for paths and URLs that are otherwise."""
    from textwrap import TextWrapper  # needed here only
    fill = TextWrapper(79, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False).fill

    def text(value: Any) -> str:
        if isinstance(value, dict):  # the parameters of an event
            value = "; ".join(f"{name} ({kind})" for name, kind in value.items())
        return {"True": "yes", "False": "no", "None": "none", "": "none"}.get(str(value), str(value))

    yield f"Telemetry is {'on' if status['enabled'] else 'off'}: {status['reason']}\n"
    for key, value in [*status.items()][2:]:
        title = key.replace("_", " ")
        if isinstance(value, dict):
            value = [f"{name}: {text(item)}" for name, item in value.items()]
        if isinstance(value, list):
            yield from ["", f"{title}:", *(fill(f"  {row}") for row in value or ["none"])]
        else:
            yield fill(f"{title}: {text(value)}")


def _decided(telemetry: Telemetry, enabled: bool) -> int:
    """`enable` and `disable`: store the decision, and delete what waits, or what keeps it. The exit code."""
    path, outbox = telemetry._path, telemetry._outbox
    before, state, told = _read_config(path), "on" if enabled else "off", ""
    try:
        if enabled and not (before.enabled or before.problem):
            outbox.clear()  # an event may have come during the `disable`
        try:
            _decide(path, enabled)
            told = f"Telemetry is {state} for this user.\n"
            told += f"The damaged config file is kept:\n{path}.bak\n" * bool(before.problem)
        finally:
            outbox.clear(_STATE if enabled else _OURS)
    except (OSError, ValueError, RecursionError) as error:
        instead = f"This works instead: set {telemetry._product.env_prefix}_DISABLED=1 in the environment.\n"
        _say("stderr", f"{told}But {error}\n" if told else
             f"Could not switch telemetry {state}: {error}\n" + instead * (not enabled))
        return 1
    refusal = enabled and telemetry._look(at_all=True).refusal
    told += f"It is still off here:\n{refusal} says no.\n" if refusal else ""
    _say("stderr", told if enabled else f"{told}What waited to be sent is deleted.\n")
    return 0


def main(argv: list[str] | None = None, *, product: Product = CODEGEN, project: Any = None) -> int:
    """`status [--json]`, `enable`, `disable`; facts on standard output, messages on standard error. Returns 0
    for done, 1 for could not, 2 for wrong usage; never raises SystemExit. `project` is as in `Telemetry`."""
    words = list(map(str, sys.argv[1:] if argv is None else argv))
    telemetry, usage = Telemetry(product, project=project), _USAGE.format(command=product.command)
    if {"-h", "--help"} & set(words):
        _say("stdout", usage)
    elif words in (["enable"], ["disable"]):
        return _decided(telemetry, words == ["enable"])
    elif sorted(words) in (["status"], ["--json", "status"]):
        status = _status(telemetry)
        text = json.dumps(status, indent=2) if "--json" in words else "\n".join(_status_lines(status))
        _say("stdout", text + "\n")
    else:
        unknown = [ascii(word) for word in words if word not in ("status", "--json", "enable", "disable")]
        _say("stderr", f"unknown: {' '.join(unknown)}\n" * bool(unknown) + usage)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
