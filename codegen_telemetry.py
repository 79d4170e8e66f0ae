# SPDX-License-Identifier: 0BSD
# SPDX-FileCopyrightText: 2026 The codegen_telemetry authors
# Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is
# hereby granted. THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS
# SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE
# LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM
# LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING
# OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
# Upstream: https://pypi.org/project/codegen-telemetry/
# Nobody needs to edit a copy, nor to check its style again:
# ruff: noqa
# flake8: noqa
# fmt: off
# isort: skip_file
# pylint: skip-file
"""Anonymous usage telemetry for a command-line tool, in one file of standard library.

Copy this file into your package, describe your tool with a `Product`, and call:

| name | what it is |
| --- | --- |
| `Product`, `CODEGEN` | who is speaking: an immutable description of a tool, and one of them |
| `is_ci(environ)` | whether a continuous integration service runs us |
| `input_source(value)` | where an input lies, never the input itself |
| `error_type(exc)` | the category of an exception, from its type alone |
| `Telemetry(product, version=...)` | `track`, `command`, `flush`, `close`, `enabled`, `reason` |
| `main(argv, product=..., project=...)` | the command line: `status`, `enable`, `disable` |

    telemetry = Telemetry(Product(name="Example", command="example"), version="1.0")
    with telemetry.command("build", flags=["--watch"]):
        ...                     # the tool's work

What a reviewer may rely on:

- Any "no" wins: `DO_NOT_TRACK`, `<PREFIX>_DISABLED`, the project, the user's config file, no place for it, a
  notice that nobody has seen. Environment and file are looked at again before each request.
- Only what `Product.events` declares leaves: words, numbers, choices; no free text, path or message.
- `track` writes one small file and returns. One daemon thread sends; `_post` opens the only socket. A request
  takes a second at most, the interpreter's exit waits `exit_wait` seconds at most.
- Nothing leaves for a minute after the notice, for ten minutes and more after a failure, and for a minute
  after a delivery, so that a command that runs often costs a request a minute.
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
from contextlib import ExitStack, closing, contextmanager, suppress
from errno import EINVAL, ENOSPC, ENOTSUP
from functools import partial, wraps
from io import TextIOWrapper
from itertools import count, islice
from types import MappingProxyType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Tuple, TypeVar, Union
    Words = Tuple[str, ...]
    Kind = Union[str, Words, List[str], Mapping[str, Words]]  # what a parameter may hold
    Events = Mapping[str, Mapping[str, Kind]]
    Value = Union[bool, int, float, str]  # what leaves
    T = TypeVar("T")
else:  # for who checks types at run time; to import `typing` would cost half as much as all of this file
    Any = Kind = Events = Value = List = T = Union = object
    Words = tuple

__all__ = ["CODEGEN", "Product", "Telemetry", "error_type", "input_source", "is_ci", "main"]
__version__ = "2.0.0"


# === Product: who is speaking? ===

# What each kind of parameter lets through, in the words of `status`.
KINDS = MappingProxyType({
    "flag": "true or false", "count": "a whole number", "milliseconds": "a whole number of milliseconds",
    "choice": "one of a fixed list of words, else other",
    "several": "some of a fixed list of words, joined by commas",
    "word": "a word the tool's author chose, else other",
    "words": "several of them, joined by commas",
    "options": "true, false, numbers and fixed words; other text becomes custom",
})
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
        "init_executed": {
            "config_type": "word", "input_type": _INPUT_TYPES, "generators": "words", "language": "word",
            "completed": "flag"},
        "error_occurred": {"command": "word", "error_type": ERROR_TYPES},
    }})

# GA4's limits and reserved names for web streams, and the parameters that have a fixed type in every event:
# https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference?client_type=gtag
# https://support.google.com/analytics/answer/13316687 and https://github.com/googleanalytics/ga-dev-tools
_MAX_PARAMS, _MAX_TEXT = 25, 100
_COMMON_PARAMS = MappingProxyType({
    "cli_version": "the tool's version", "python_version": "such as 3.11.7", "os": "such as linux",
    "ci": "whether a CI service runs it", "agent": "which AI coding agent runs it, or none",
    "session_id": "the second the process started", "engagement_time_msec": "the duration, at least 1"})
_RESERVED_PREFIXES = ("_", "firebase_", "ga_", "google_", "gtag.")
_RESERVED_EVENTS = frozenset("""
    ad_activeview ad_click ad_exposure ad_impression ad_query ad_reward adunit_exposure app_clear_data
    app_exception app_install app_remove app_store_refund app_update app_upgrade dynamic_link_app_open
    dynamic_link_app_update dynamic_link_first_open error first_open first_visit in_app_purchase
    notification_dismiss notification_foreground notification_open notification_receive notification_send
    os_update screen_view session_start user_engagement""".split())
# Three that can't hold what GA4 wants there: an array, and an amount together with a currency in capitals.
_RESERVED_PARAMS = frozenset(("items", "value", "currency"))
_FIXED_TYPES = MappingProxyType({
    **dict.fromkeys(("shipping", "tax", "level", "score"), "number"), **dict.fromkeys("""
    transaction_id affiliation coupon shipping_tier virtual_currency_name payment_type group_id character
    method search_term content_type item_id item_list_id item_list_name creative_name creative_slot
    location_id promotion_id promotion_name item_name achievement_id""".split(), "text")})


class _Several(Words):
    """The words of a kind that was declared as a list: several of them may be passed."""


def _name_problem(name: object, reserved: frozenset[str] | Mapping[str, str]) -> str:
    """Why GA4 would refuse this name of an event or parameter; empty if it takes it."""
    if not (isinstance(name, str) and name.isascii() and name.isidentifier() and len(name) <= 40):
        return "must be 1 to 40 letters, digits and _, and begin with a letter"
    is_reserved = name in reserved or name.startswith(_RESERVED_PREFIXES)
    return "is reserved by Google Analytics" if is_reserved else ""


def _checked_kind(where: str, kind: Any, is_option: bool = False) -> Any:
    """An unchangeable copy of a declared kind. Raises ValueError for anything that is none."""
    if not is_option and isinstance(kind, Mapping):
        return MappingProxyType({key: _checked_kind(f"{where}.{key}", kind[key], True) for key in kind})
    if not is_option and isinstance(kind, str) and kind in KINDS and kind not in ("choice", "several"):
        return MappingProxyType({}) if kind == "options" else kind
    is_several = isinstance(kind, (list, _Several)) and not is_option
    if isinstance(kind, (tuple, list, set, frozenset)) and kind and all(
            isinstance(word, str) and word.isascii() and word.isprintable() and 0 < len(word) <= _MAX_TEXT
            and not set('"\\,' if is_several else '"\\').intersection(word) for word in kind):
        return _Several(kind) if is_several else tuple(kind)
    raise ValueError(f"{where}: {kind!r} is no kind; a choice is a tuple of words of 1 to 100 characters")


def _checked_params(event: str, params: Mapping[str, Any]) -> Mapping[str, Kind]:
    """An unchangeable copy of one event's declaration. Raises ValueError for what GA4 would refuse."""
    if not isinstance(params, Mapping):
        raise ValueError(f"event {event!r} must be a table of parameters and their kinds")
    sizes = [len(kind) or 1 if isinstance(kind, Mapping) else 1 for kind in params.values()]
    problems = {f"event {event!r}": _name_problem(event, _RESERVED_EVENTS) or (
        sum(sizes) + len(_COMMON_PARAMS) > _MAX_PARAMS and f"has over {_MAX_PARAMS} parameters, with ours")}
    checked: dict[str, Kind] = {name: _checked_kind(f"{event}.{name}", kind) for name, kind in params.items()}
    for name, kind in checked.items():
        for option in [*kind, "x"] if isinstance(kind, Mapping) else ():  # and any other that is passed
            problems[f"option {option!r} of {event}.{name}"] = _name_problem(
                f"{name}_{str(option).replace('-', '_')}", _FIXED_TYPES)
        is_text = isinstance(kind, tuple) or kind in ("word", "words")
        typed = "text" if is_text else "number" if kind in ("count", "milliseconds") else ""
        fixed = _FIXED_TYPES.get(name, typed)
        problems[f"parameter {name!r} of event {event!r}"] = (
            _name_problem(name, _RESERVED_PARAMS) or name in _COMMON_PARAMS and "is added to every event"
            or fixed != typed and f"must be a {fixed} for Google Analytics")
    for where, problem in problems.items():
        if problem:
            raise ValueError(f"{where} {problem}")
    return MappingProxyType(checked)


# The type of each field of a `Product`, and the word for it.
_FIELD_TYPES = MappingProxyType({"events": (Mapping, "a table"), "opt_in": (bool, "True or False"),
                                 "project_files": (tuple, "a tuple of file names")})


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

    Without `command` and `name` the defaults are those of `CODEGEN`. A kind is a name from `KINDS`; a choice
    is the tuple of its words, several of them a list; options are a mapping from an option to the words it
    may hold. Raises ValueError for an event that GA4 would refuse, for a field that is malformed, and for a
    name without a command.
    """
    __slots__ = ()

    def __new__(cls, *, name: str | None = None, command: str | None = None, env_prefix: str | None = None,
                directory: str | None = None, docs_url: str | None = None, endpoint: str | None = None,
                tracking_id: str | None = None, api_secret: str | None = None, events: Events | None = None,
                project_files: tuple[str, ...] | None = None, opt_in: bool | None = None,
                opt_out: str | None = None) -> Product:
        given = {key: value for key, value in locals().items() if key in cls._fields and value is not None}
        fields = {**_CODEGEN, **given}
        for field, value in fields.items():
            kind, described = _FIELD_TYPES.get(field, (str, "a text"))
            if not isinstance(value, kind):
                raise ValueError(f"{field} must be {described}")
        if "name" in given and "command" not in given:
            raise ValueError("a product with a name of its own needs a command of its own")
        if fields["command"] != _CODEGEN["command"]:  # another tool has an opt-out and a folder of its own
            slug = re.sub("[^A-Za-z0-9]", "-", fields["command"]).strip("-")
            if not slug and not (env_prefix and directory):
                raise ValueError("a command without ASCII letters needs an env_prefix and a directory")
            fields.update({"name": fields["command"], "directory": f".{slug.lower()}-telemetry",
                           "env_prefix": slug.replace("-", "_").upper() + "_TELEMETRY", "docs_url": "",
                           "project_files": (), "opt_out": f"{fields['command']} telemetry disable", **given})
        for field in ("command", "name", "directory", "opt_out"):
            if not fields[field].strip(" .") or not fields[field].isprintable():
                raise ValueError(f"{field} must be a printable text, not {fields[field]!r}")
        if not all(isinstance(file, str) and file for file in fields["project_files"]):
            raise ValueError("project_files must be a tuple of file names")
        if not (fields["env_prefix"].isascii() and fields["env_prefix"].isidentifier()):
            raise ValueError(f"env_prefix can't begin a variable's name: {fields['env_prefix']!r}")
        fields["events"] = MappingProxyType({event: _checked_params(event, params)
                                             for event, params in fields["events"].items()})
        return super().__new__(cls, **fields)

    def __repr__(self) -> str:
        return f"<Product {self.command!r}>"  # never the secret

    def __hash__(self) -> int:
        return hash((self.command, self.endpoint, self.tracking_id))

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """For copies and pickles, which can't hold an unchangeable mapping."""
        events = {event: {name: dict(kind) if isinstance(kind, Mapping) else kind
                          for name, kind in params.items()} for event, params in self.events.items()}
        return partial(Product, **{**self._asdict(), "events": events}), ()


CODEGEN = Product()


# === Config file: what is remembered? ===

_MAX_FILE = 64 * 1024             # bytes; ours has 300, so a larger one is not ours
_STALE_SECONDS = 10.0             # a lock or claim this old belongs to a process that is gone
_RUN = os.urandom(16)             # together with the process id it tells this process from others
_TEMPORARY = "[.][0-9a-f]{8}-[0-9]+-[0-9a-f]{8}[.]tmp"  # the end of the name of a file being written
_Config = namedtuple("_Config", "problem enabled notice_shown client_id endpoint tracking_id api_secret",
                     defaults=(False, False, "", "", "", ""))
_MISSING = _Config("")  # no file; else `problem` is empty, or why the file can't be used


class _Busy(OSError):
    """Another program is at the same file just now."""


class _Clock:
    """What waits depend on, kept where those who freeze or mock clocks don't reach, not even beforehand."""
    now: Any = staticmethod(partial(time.clock_gettime, time.CLOCK_MONOTONIC) if os.name == "posix"
                            else time.monotonic)
    sleep = staticmethod(time.sleep)
    ticks = count()  # one for each event of the process


def _wall_time() -> float:
    """Seconds since 1970, as far as 16 digits of microseconds can tell."""
    return min(max(time.time(), 0.0), 9_999_999_999.0)


def _token() -> str:
    """What stands for this process in the names of its files."""
    return f"{_RUN.hex()[:8]}-{os.getpid()}"


def _config_path(product: Product, environ: Mapping[str, str] = os.environ) -> str:
    """The config file of this user; empty when there is no home folder with an absolute path."""
    folder = os.path.join(os.path.expanduser("~"), os.path.expanduser(product.directory))
    has_home = os.path.isabs(folder) and environ.get("HOME") != ""
    return os.path.join(folder, "config.json") if has_home else ""


def _has_place(path: str) -> bool:
    """Whether the config file could be made. Its folder is made where it is missing, the home never is."""
    folder, home = os.path.dirname(path), os.path.expanduser("~")
    place = home if folder.startswith(home + os.sep) else os.path.dirname(folder)
    if os.path.lexists(folder):
        place = os.path.dirname(os.path.realpath(path))
    return bool(path) and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def _make_folder(path: str) -> None:
    """Make a folder for its user only, whatever the umask, and those above it. Raises OSError."""
    if not os.path.isdir(path):
        if os.path.dirname(path) != path:
            _make_folder(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)


def _patiently(call: Callable[..., T], *arguments: Any) -> T:
    """The call's result. Windows, and only that, refuses to touch what another process has open."""
    for _ in range(10 if os.name == "nt" else 0):
        try:
            return call(*arguments)
        except PermissionError:
            _Clock.sleep(0.01)
    return call(*arguments)


def _quietly(call: Callable[[], Any], default: Any) -> Any:
    """The call's result, or the default if it raises."""
    try:
        return call()
    except Exception:  # broad on purpose: for objects of the host, and for what it has patched
        return default


def _unlink(path: str) -> None:
    with suppress(OSError):
        _patiently(os.unlink, path)


def _age(path: str) -> float:
    """Seconds since the file was written, without sign, because clocks are set; 0 if it is gone."""
    with suppress(OSError):
        return abs(time.time() - os.stat(path).st_mtime)
    return 0.0


def _touch(path: str) -> None:
    """Say that the file was written now, by our clock: a file server may have another."""
    with suppress(OSError, OverflowError):
        os.utime(path, (time.time(), time.time()))


def _read_bytes(path: str, limit: int = _MAX_FILE) -> bytes:
    """What a regular file of at most `limit` bytes holds. Raises OSError, ValueError."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would be to wait for its writer
        raise ValueError("it is not a regular file")
    file = _patiently(os.open, path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        data = os.read(file, limit + 1)
    finally:
        os.close(file)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return data


def _read_json(path: str) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError, ValueError."""
    data = _read_bytes(path)
    with suppress(ValueError, RecursionError):
        document = json.loads(data)
        if isinstance(document, dict):
            return document
    raise ValueError("it is no JSON object, or nested too deeply")


def _interpreted(document: dict[str, Any]) -> _Config:
    """The parts of a config file that we use. Raises ValueError when one of them has the wrong type."""
    section, notice = document.get("telemetry", {}), document.get("hasShownTelemetryNotice", False)
    read = section.get if isinstance(section, dict) else lambda key, default: None
    texts = [read(key, "") for key in ("anonymousId", "endpoint", "trackingId", "apiSecret")]
    about = [document.get(key, "") for key in ("version", "lastUpdated")]
    if not isinstance(notice, bool) or not all(isinstance(text, str) for text in texts + about):
        raise ValueError("a value has the wrong type")
    if texts[0] and not re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", texts[0]):
        raise ValueError("telemetry.anonymousId is not a UUID")
    return _Config("", section.get("enabled") is True, notice, *(str(text).strip() for text in texts))


def _read_config(path: str) -> _Config:
    """What the config file says. Never raises, never writes. The Node.js CLI writes it in place, so one that
    looks damaged and was written within the last second is read again for up to 50 ms."""
    deadline = _Clock.now() + 0.05
    while True:
        try:
            return _interpreted(_read_json(path))
        except (FileNotFoundError, NotADirectoryError):
            return _MISSING
        except (OSError, ValueError) as error:
            problem = f"it can't be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        if _age(path) >= 1 or _Clock.now() >= deadline:
            return _Config(problem)
        _Clock.sleep(0.005)


@contextmanager
def _written(path: str, data: bytes, durable: bool = False) -> Generator[str, None, None]:
    """A new file beside `path`, for its user only, that is deleted unless it is renamed. Raises OSError."""
    temporary, flags = f"{path}.{_token()}-{os.urandom(4).hex()}.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        file = os.open(temporary, flags | getattr(os, "O_BINARY", 0), 0o600)
        try:
            os.chmod(temporary, 0o600)  # because a umask may forbid even its user to read it
            if os.write(file, data) < len(data):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            if durable:
                os.fsync(file)
        except OSError as error:
            if error.errno not in (EINVAL, ENOTSUP):  # which SMB and FUSE say to `fsync`
                raise
        finally:
            os.close(file)
        yield temporary
    finally:
        _unlink(temporary)


def _store(path: str, data: bytes) -> None:
    """Write a file, complete or not at all. Raises OSError."""
    with _written(path, data) as temporary:
        _patiently(os.replace, temporary, path)


def _time_text(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _encoded(document: dict[str, Any]) -> bytes:
    """A config file as of now, with an anonymous ID. Raises ValueError when we could not read it any more."""
    if not document["telemetry"].get("anonymousId"):
        import uuid  # needed once in the life of a config file
        document["telemetry"]["anonymousId"] = str(uuid.uuid4())
    document["lastUpdated"] = _time_text(_wall_time())
    for indent in (2, None):  # deeply nested keys of others take most of their room for indentation
        data = json.dumps(document, indent=indent).encode() + b"\n"
        if len(data) <= _MAX_FILE:
            return data
    raise ValueError("it would become too large")


@contextmanager
def _locked(path: str, wait: float) -> Generator[None, None, None]:
    """Hold the lock of a config file, for which we wait so many seconds at most. Raises OSError."""
    lock, deadline, mine = path + ".lock", _Clock.now() + wait, 0
    folder, name = os.path.split(path)
    while True:
        is_stale = _age(lock) > _STALE_SECONDS
        for temporary in filter(re.compile(re.escape(name) + _TEMPORARY).fullmatch, os.listdir(folder)):
            if is_stale or _age(os.path.join(folder, temporary)) > _STALE_SECONDS:
                _unlink(os.path.join(folder, temporary))  # its writer, if it only slept, must not go on
        if is_stale:
            _unlink(lock)
        try:
            file = _patiently(os.open, lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            break
        except FileExistsError:
            if _Clock.now() >= deadline:
                raise _Busy(f"another process holds {lock}") from None
            _Clock.sleep(0.01)
    try:
        os.close(file)
        _touch(lock)
        mine = os.stat(lock).st_mtime_ns
        yield
    finally:
        with suppress(OSError):
            if mine in (0, os.stat(lock).st_mtime_ns):  # else we slept, and another process broke it
                os.unlink(lock)


def _create_config(path: str, enabled: bool) -> bool:
    """Create the config file, complete and by one process only, unless it exists: whether we did. It names
    no destination, because a copy of the product's would outlive it. Raises OSError."""
    if not _has_place(path):
        raise OSError(f"there is no place for {path or 'a config file'}")
    _make_folder(os.path.dirname(path))
    path, data = os.path.realpath(path), _encoded({"version": "1.0.0", "telemetry": {
        "enabled": enabled, "anonymousId": ""}, "hasShownTelemetryNotice": False})
    if os.path.lexists(path):
        return False
    try:
        with _written(path, data) as temporary:
            os.link(temporary, path)  # exclusive: of many processes one is the first
    except FileExistsError:
        return False
    except (AttributeError, NotImplementedError, OSError):  # a file system without hard links
        with _locked(path, 0.1 if enabled else 2.0):
            if os.path.lexists(path):
                return False
            _store(path, data)
    return True


def _edit(path: str, change: Callable[[dict[str, Any]], object], wait: float,
          show: Callable[[dict[str, Any]], object] = bool, durable: bool = False) -> None:
    """Have the config file's document changed, under a lock for which we wait so many seconds at most. What
    is to be stored is written before `show` is called with what was stored, and put in place after it: so a
    full disk is known before. Raises OSError, ValueError, and whatever `show` raises."""
    path = os.path.realpath(path)
    with _locked(path, wait):
        try:
            before, document = _read_json(path), _read_json(path)
            _interpreted(document)
        except ValueError:
            raise _Busy(f"another program is writing {path}") from None
        document.setdefault("telemetry", {})
        change(document)
        with _written(path, _encoded(document), durable) as temporary:
            show(before)
            if _quietly(lambda: _read_json(path), None) != before:  # by who knows no lock, or slept
                raise _Busy(f"another program has just changed {path}")
            _patiently(os.replace, temporary, path)


def _decide(path: str, enabled: bool) -> None:
    """Store the user's decision, again and again until it has stood for a tenth of a second: the Node.js CLI
    writes back what it read a moment ago. A no brings a new anonymous ID. Raises OSError, ValueError."""
    def change(document: dict[str, Any]) -> None:
        section = document["telemetry"]
        section["enabled"] = enabled
        document["hasShownTelemetryNotice"] = enabled or document.get("hasShownTelemetryNotice", False)
        if not enabled and section.get("anonymousId", "").strip() == old:
            section["anonymousId"] = ""

    def stands() -> bool:
        config = _read_config(path)
        is_kept = config.notice_shown if enabled else config.client_id not in ("", old)
        return config.enabled is enabled and not config.problem and is_kept

    def write() -> None:
        left = max(0.0, deadline - _Clock.now())
        if _read_config(path).problem:
            with _locked(path, left):  # of a link, the link alone is moved: it may lead to /dev/null
                if _read_config(path).problem:
                    _patiently(os.replace, path, path + ".bak")
        _create_config(path, enabled)
        _edit(path, change, left, durable=True)

    old, deadline, problem = _read_config(path).client_id, _Clock.now() + 2.0, _Busy(
        f"another program keeps changing {path}")
    while True:
        try:
            write()
            written = _Clock.now()
            while stands():
                if _Clock.now() >= written + 0.1:
                    return
                _Clock.sleep(0.01)
        except _Busy as error:
            problem = error
        if _Clock.now() >= deadline:
            raise problem
        _Clock.sleep(0.01)


# === Consent: may we send, and who decided? ===

_NO_WORDS = frozenset(("", "0", "false", "no", "off"))
_ON = "on by default"
_UNTOLD = "the first-run notice is due, and could not be shown on a terminal"
_MAX_PROJECT_FILE = 1024 * 1024  # bytes; a project's configuration may be long, and its "no" counts
# What a project's JavaScript, TypeScript or YAML is cleared of: quotes around words, other texts, comments. No
# alternative that has begun can fail but within bounds, here and below, so no text makes a match slow.
_NOISE = r"""(["'`])(?P<word>[\w.-]{1,99})\1|%s|"(?:\\.|[^"\\\n])*"?|(?<!\w)'(?:\\.|[^'\\\n])*'?|`[^`\n]*`"""
_SCRIPT_NOISE, _YAML_NOISE = r"//[^\n]*|/\*(?s:.*?)(?:\*/|\Z)", r"(?<!\S)(?:(?:\#|//)[^\n]*|[&!]\S+)"
_NO = r"\]?\s*[:=][\s(]*(?:(?i:false|no|off)|n|0|!1|!true)(?![\w$-])"
_BRACES = (r"[{},;\n]|(?<![\w$-])(?:(telemetry)\]?\s*[:=]\s*(?:[^\s{},;:][^{},;:\n]{0,200})?\{"
           rf"|(telemetry|telemetry\.enabled|enabled){_NO})")
_BLOCK = (r"(?m)^([ \t]*)(?:- )?telemetry[ \t]*:[ \t]*\n(?:(?:\1[ \t]+[^\s][^\n]*|[ \t]*)\n){0,200}?"
          rf"\1[ \t]+enabled{_NO}")


def _is_set(environ: Mapping[str, str], variable: str) -> bool:
    """Whether a variable is set to anything but a word for no. Undecodable bytes count as set."""
    return environ.get(variable, "").strip().lower() not in _NO_WORDS


def _braces_say_no(text: str) -> bool:
    """Whether `telemetry` has `enabled` set to false inside its braces."""
    depth = 0                # how many braces are open
    ours: set[int] = set()   # at which depths a value of telemetry's goes on
    for match in re.finditer(_BRACES, text):
        token = match.group()
        if token[-1] == "{":
            ours.update({depth} if match.group(1) else ())
            depth += 1
        elif token in "},;\n":  # the end of a value
            ours.discard(depth)
            depth -= token == "}"
        elif match.group(2) != "enabled" or depth - 1 in ours:
            return True
    return False


def _says_no(section: object) -> bool:
    """Whether a parsed `telemetry` section does. One that raises does, and so does anything else."""
    if isinstance(section, Mapping):
        return bool(_quietly(lambda: section.get("enabled", True) is not True, True))
    return not (section is None or section is True)


def _file_says_no(file: str, command: str) -> bool:
    """Whether a project's file does. JSON is parsed, anything else is matched as text and never run."""
    try:
        data = _read_bytes(file, _MAX_PROJECT_FILE)
    except (OSError, ValueError):  # one that can't be read is no answer
        return False
    if file.endswith(".json"):
        with suppress(ValueError, RecursionError):
            document = json.loads(data)
            for key in [command] * (os.path.basename(file) == "package.json") + ["telemetry"]:
                document = document.get(key) if isinstance(document, dict) else None
            return _says_no(document)
    text, is_yaml = data.decode("utf-8-sig", "replace"), file.endswith(("yaml", "yml", "rc"))
    noise = _NOISE % (_YAML_NOISE if is_yaml else _SCRIPT_NOISE)
    text = re.sub(noise, lambda match: match["word"] or " ", re.sub("\r\n?", "\n", text))
    return _braces_say_no(text) or is_yaml and bool(re.search(_BLOCK, text))


def _variable_refusal(product: Product, environ: Mapping[str, str]) -> str:
    """The variable that says no; empty for none. A run of pytest is not usage, unless somebody asks for it by
    naming an endpoint, or debug mode."""
    prefix = product.env_prefix
    for name in ("DO_NOT_TRACK", prefix + "_DISABLED"):
        if _is_set(environ, name):
            return name
    is_tested = _is_set(environ, "PYTEST_VERSION") and not (
        _is_set(environ, prefix + "_DEBUG") or environ.get(prefix + "_ENDPOINT", "").strip())
    return "PYTEST_VERSION" if is_tested else ""


def _file_refusal(product: Product, config: _Config, path: str, debug: bool) -> str:
    """Why the config file, or the want of one, says no; empty if it does not."""
    if config is not _MISSING:
        return "" if config.enabled else path
    if product.opt_in:
        return f"it is switched on by {product.command} telemetry enable"
    return "" if debug or _has_place(path) else f"no place for {path or 'a config file'}"


# === Context: where are we running? ===

# Variables that continuous integration services set: those of the documented nine, the generic two, those of
# services that may not set these. Names as in https://github.com/watson/ci-info/blob/master/vendors.json
CI_VARIABLES = tuple("""
    GITHUB_ACTIONS GITLAB_CI CIRCLECI TRAVIS JENKINS_URL BITBUCKET_BUILD_NUMBER CODEBUILD_BUILD_ID
    TEAMCITY_VERSION BUILDKITE CI CONTINUOUS_INTEGRATION TF_BUILD APPVEYOR bamboo_planKey CF_BUILD_ID DRONE
    GO_PIPELINE_LABEL HARNESS_BUILD_ID HUDSON_URL PROW_JOB_ID SCREWDRIVER TASKCLUSTER_ROOT_URL XCS""".split())
# AI coding agents, each with the variables that it sets in the shells it runs; earlier ones win, because some
# set another's variable, too. AI_AGENT and AGENT may name one by their value. From the tables of
# @vercel/detect-agent 1.2, am-i-vibing 0.5, std-env 4.3 and huggingface_hub 1.12.
AGENTS = MappingProxyType({agent: tuple(variables.split()) for agent, variables in {
    "antigravity": "ANTIGRAVITY_AGENT", "auggie": "AUGMENT_AGENT", "cline": "CLINE_ACTIVE",
    "cowork": "CLAUDE_CODE_IS_COWORK", "amp": "AMP_CURRENT_THREAD_ID",
    "claude_code": "CLAUDECODE CLAUDE_CODE", "crush": "CRUSH", "gemini_cli": "GEMINI_CLI",
    "codex": "CODEX_SANDBOX CODEX_CI CODEX_THREAD_ID",
    "qwen_code": "QWEN_CODE", "copilot": "COPILOT_CLI COPILOT_AGENT", "goose": "GOOSE_TERMINAL",
    "kilo_code": "KILOCODE_FEATURE", "openclaw": "OPENCLAW_SHELL", "opencode": "OPENCODE OPENCODE_CLIENT",
    "pi": "PI_CODING_AGENT", "roo_code": "ROO_ACTIVE", "trae": "TRAE_AI_SHELL_ID",
    "hermes": "HERMES_SESSION_ID", "cursor": "CURSOR_AGENT CURSOR_TRACE_ID", "replit": "REPL_ID",
    "devin": "", "jules": "", "junie": "", "kiro": "", "v0": "",
}.items()})
# Other names that agents go by in AI_AGENT and AGENT.
_AGENT_NAMES = MappingProxyType({**{agent: agent for agent in AGENTS}, "claude": "claude_code",
                                 "gemini": "gemini_cli", "qwen": "qwen_code", "roo": "roo_code",
                                 "kilo": "kilo_code", "augment": "auggie", "github_copilot": "copilot"})
_PROCESS_START = time.time()  # seconds since 1970; whole ones are GA4's session id
# The category of an exception by the name of its class or a base class: so none of them has to be imported.
_ERROR_NAMES = MappingProxyType({name: category for category, names in {
    "configuration_error": "ConfigError ConfigurationError",
    "file_not_found": "FileNotFoundError NotADirectoryError",
    "network_error": "ConnectionError TimeoutError timeout gaierror herror URLError HTTPError SSLError "
                     "HTTPException RequestException TransportError",
    "parse_error": "JSONDecodeError TOMLDecodeError SyntaxError UnicodeError YAMLError ParseError "
                   "ParserError ParsingError ExpatError BadZipFile",
    "validation_error": "ValidationError SchemaError UsageError ArgumentError ArgumentTypeError ValueError",
    "permission_error": "PermissionError",
    "interrupted": "KeyboardInterrupt CancelledError Abort",
}.items() for name in names.split()})
_MIN_STACK = 2 ** 18  # bytes; `threading.stack_size` may give a thread less, which would end the process
_MAX_ERRORS = 100_000  # of a group or chain that we look at: it may be endless


def _plain(value: object) -> str:
    """The characters of a text as an exact `str`, by no method of its own, because it may lie; else empty."""
    text: Any = value
    return str.__getitem__(text, slice(None)) if issubclass(type(text), str) else ""


def is_ci(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a continuous integration service runs us, by the variables it sets. `CI=false` beats all."""
    if environ.get("CI", "").strip() and not _is_set(environ, "CI"):
        return False
    return any(_is_set(environ, variable) for variable in CI_VARIABLES)


def _agent(environ: Mapping[str, str] = os.environ) -> str:
    """The AI coding agent that runs us: a word of `AGENTS`, "other" for one that we don't know, or "none"."""
    for variable in ("AI_AGENT", "AGENT"):  # such as claude-code, goose@1.2 or amp/7
        value = re.sub("[^a-z0-9]", "_", environ.get(variable, "").strip().lower()) + "_"
        for name in sorted(_AGENT_NAMES, key=len, reverse=True):
            if value.startswith(name + "_"):
                return _AGENT_NAMES[name]
    for agent, variables in AGENTS.items():
        if any(_is_set(environ, variable) for variable in variables):
            return agent
    return "other" if any(_is_set(environ, variable) for variable in ("AI_AGENT", "AGENT")) else "none"


def _can_start() -> bool:
    """Whether a thread can begin and open a socket: not at the end of the main thread, with a tiny stack, or
    where a standard stream is closed, whose place the socket would take."""
    main = threading.main_thread()
    is_over = threading.current_thread() is main and not main.is_alive()
    if sys.is_finalizing() or is_over or 0 < threading.stack_size() < _MIN_STACK:
        return False
    with suppress(OSError):
        return os.name == "nt" or all(os.fstat(descriptor) for descriptor in (0, 1, 2))
    return False


def _fork_lock() -> Any:
    """A lock that no fork finds held. What our thread loads under it locks modules, and a module's lock that
    is held in a fork is held in the child for ever."""
    def release() -> None:
        with suppress(RuntimeError):  # not ours: we were registered in the middle of a fork
            lock.release()

    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=release, after_in_child=release)
    return lock


def _load_network_code() -> bool:
    """Import what a request needs, in a thread of ours that takes no signal, not even SIGPIPE, by which a
    lost connection may end a process; but those of a crash, which faulthandler reports. Under gevent it is
    the host's own thread."""
    import signal
    is_own = threading.get_native_id() != getattr(threading.main_thread(), "native_id", None)
    if hasattr(signal, "pthread_sigmask") and is_own:
        crashes = {getattr(signal, "SIG" + name) for name in "SEGV BUS FPE ILL ABRT SYS TRAP".split()}
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - crashes)
    import calendar  # for dates
    import encodings.idna  # for name look-ups
    import urllib.request
    return True


def input_source(value: Any) -> str:
    """Where an input lies: "remote_url", "local_relative" or "local_absolute". Never raises, touches no file.
    Windows drives and UNC paths are absolute on every system, and so are `file:` URLs and `~`."""
    text = _plain(_quietly(lambda: os.fsdecode(value), value)).strip()
    if re.match(r"(?i)(file:/|[a-z]:|[/\\~])", text):
        return "local_absolute"
    is_remote = re.match(r"[A-Za-z0-9+.-]{2,}:/|[A-Za-z0-9._-]+@[A-Za-z0-9._-]+:", text)
    return "remote_url" if is_remote else "local_relative"


def _is_exit(exc: object) -> bool:
    """Whether this exception ends a program as it should: `SystemExit`, or click's and typer's `Exit`."""
    return issubclass(type(exc), SystemExit) or type(exc).__name__ == "Exit" and hasattr(exc, "exit_code")


def _categories(exc: Any) -> Iterator[str]:
    """The categories of an exception, of a group's members, of what an exit was raised from or during."""
    todo, seen = [exc], {0}
    while todo and len(seen) < _MAX_ERRORS:
        error = todo.pop()
        if id(error) in seen:  # a chain may be a circle
            continue
        seen.add(id(error))
        members = getattr(error, "exceptions", None) if issubclass(type(error), BaseException) else None
        if isinstance(members, (tuple, list)):
            todo += reversed(members)
        elif _is_exit(error):
            todo.append(error.__context__ if error.__cause__ is None else error.__cause__)
        else:
            if issubclass(type(error), KeyboardInterrupt):
                yield "Ctrl-C"
            for base in (error if issubclass(type(error), type) else type(error)).__mro__:
                name = "ConfigError" if base.__module__ == "configparser" else base.__name__
                yield _ERROR_NAMES.get(name, "")


def error_type(exc: object) -> str:
    """The category of an exception, of `ERROR_TYPES`, by its type and never by its message. An exit has that
    of the exception it was raised from or during, a group that of its first member that has one; one
    KeyboardInterrupt in it makes a group "interrupted". Never raises."""
    found: list[str] = _quietly(lambda: [*filter(None, _categories(exc))], [])
    return "interrupted" if "Ctrl-C" in found else [*found, "unknown_error"][0]


# === Events: what may leave? ===

_MAX_NUMBER = 10 ** 9
_MAX_ITEMS = 1000  # of a list or mapping that we look at: it may be endless


def _word(value: object) -> str:
    """The word, or "other": too short for a path or a sentence, with too few digits for an identifier."""
    text = _plain(value)
    return text if re.fullmatch("(?!([^0-9]*[0-9]){4})[a-z][A-Za-z0-9_-]{0,31}", text) else "other"


def _joined(name: str, value: Any, checked: Callable[[object], str], dropped: list[str]) -> str:
    """Words joined by commas, in their order and once each; cut to GA4's 100 characters at a comma."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        value = () if value is None else (value,)
    text = ",".join(dict.fromkeys(map(checked, islice(value, _MAX_ITEMS)))) or "none"
    if len(text) <= _MAX_TEXT:
        return text
    dropped.append(f"{name} is longer than {_MAX_TEXT} characters, the last words")
    return text[:_MAX_TEXT + 1].rpartition(",")[0]


def _flag(value: object) -> str:
    """A flag without its dashes and what it was set to."""
    return _plain(value)[:_MAX_FILE].lstrip("-").partition("=")[0]


def _number(value: Any, least: int = 0) -> int | float | None:
    """The number if it is one, finite, from `least` to 10^9, and no bool. Numpy's integers are numbers."""
    number: int | float
    if issubclass(type(value), float):
        number = float.__add__(value, 0.0)
    elif issubclass(type(value), int):
        number = int.__add__(value, 0)
    else:
        index = getattr(type(value), "__index__", None)
        number = int.__add__(index(value), 0) if index else -1.0 - _MAX_NUMBER
    is_fine = type(value) is not bool and least <= number <= _MAX_NUMBER  # which is false for NaN, too
    return number if is_fine else None


def _options(name: str, value: Any, declared: Mapping[Any, Any],
             dropped: list[str]) -> dict[str, Value]:
    """One parameter an option: `<name>_<option>`. Nested values and odd names are left out."""
    flat: dict[str, Any] = {}
    for option, held in islice(value.items(), _MAX_ITEMS) if isinstance(value, Mapping) else ():
        option, number = _plain(option), _quietly(partial(_number, held, -_MAX_NUMBER), None)
        flat_name = f"{name}_{option.replace('-', '_')}"
        if _word(option) != option or _name_problem(flat_name, _FIXED_TYPES):
            dropped.append(f"{name}.{ascii(option)[:40]} has no name for an option")
        elif held is True or held is False or number is not None:
            flat[flat_name] = held if number is None else number
        elif issubclass(type(held), str):
            flat[flat_name] = _plain(held) if _plain(held) in declared.get(option, ()) else "custom"
        else:
            dropped.append(f"{name}.{option} holds no option's value")
    return flat


def _shaped(name: str, kind: Any, value: Any, dropped: list[str]) -> dict[str, Value]:
    """The parameters that may leave for one that was passed; none if it has to be dropped."""
    def chosen(item: object) -> str:
        text, flag = _plain(item), _flag(item) if isinstance(kind, _Several) else ""
        return text if text in kind else flag if flag in kind else "other"

    if isinstance(kind, Mapping):
        return _options(name, value, kind, dropped)
    if isinstance(kind, _Several):
        return {name: _joined(name, value, chosen, dropped)}
    if isinstance(kind, tuple):
        return {name: chosen(value)}
    if kind == "flag":
        return {name: value} if value is True or value is False else {}
    if kind in ("count", "milliseconds"):
        number = _number(value)
        return {} if number is None else {name: round(number)}
    if kind == "words":
        return {name: _joined(name, value, lambda item: _word(_flag(item)), dropped)}
    return {name: _word(value)}


def _checked(declared: Mapping[str, Kind],
             params: Mapping[str, object]) -> tuple[dict[str, Value], list[str]]:
    """What may leave of these parameters, and what was dropped and why."""
    kept: dict[str, Value] = {}
    dropped = [f"{ascii(name)[:60]} is not declared" for name in params if name not in declared]
    room = _MAX_PARAMS - len(_COMMON_PARAMS) - len(declared)  # for options beyond the first of each parameter
    for name in filter(params.__contains__, declared):
        shaped = _quietly(partial(_shaped, name, declared[name], params[name], dropped), None) or {}
        if not shaped:
            dropped.append(f"{name} is not of its kind")
        mine = [key for key in shaped if key == name or key not in declared][:room + 1]
        room -= max(0, len(mine) - 1)
        kept.update((key, shaped[key]) for key in mine)
        dropped += [f"{key} has no room" for key in shaped if key not in mine]
    return kept, dropped


def _time_stamp() -> int:
    """The moment of recording in microseconds since 1970, a few milliseconds early: from a place in the slot
    before last that only chance knows, each event takes the next one. So they are unique in this process and
    in practice among those that share a home, keep their order, and tell nothing but the time."""
    slot, now = 4096, int(_wall_time() * 1e6)
    place = crc32(_RUN + b"%d" % os.getpid()) % slot + next(_Clock.ticks)
    return max(now - now % slot - 2 * slot, 0) + place


def _event(name: str, params: dict[str, Value], declared: Mapping[str, Kind], version: str, ci: bool,
           agent: str) -> dict[str, Any]:
    """The event as GA4 takes it."""
    spent = [int(params[key]) for key, kind in declared.items() if kind == "milliseconds" and key in params]
    return {"name": name, "timestamp_micros": _time_stamp(), "params": {
        **params, "cli_version": version, "python_version": "%d.%d.%d" % sys.version_info[:3],
        "os": sys.platform, "ci": ci, "agent": agent, "session_id": max(1, int(_PROCESS_START)),
        "engagement_time_msec": max(1, spent[0] if spent else 1)}}


# === Wire: what does it look like outside? ===

# Where events go, and for whom. `source` named it; `problem` is empty, or why there is no destination; `key`
# is eight hexadecimal digits that stand for endpoint and measurement ID in the names of files; `at_once`
# holds in CI and where a variable names the destination: such events know no hold and no rest.
_Destination = namedtuple("_Destination", "source endpoint measurement_id api_secret client_id agent problem "
                                          "key at_once", defaults=("", "", "", "", "", "", "", False))
# With host and port; no user name, raw blanks, quotes, <, > or backslashes. urllib.parse takes time to load.
_URL = (r"[Hh][Tt][Tt][Pp][Ss]?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?"
        r"(?:[/?#][!#-;=?-\[\]-~]*)?")
_HEADERS = frozenset(("host", "connection", "accept-encoding", "content-type", "content-length", "user-agent",
                      "proxy-authorization"))  # that leave
_KEPT_4XX = frozenset((401, 403, 404, 407, 408, 425, 429))  # a mistake of the operator, or of the moment
_NO_ANSWER = (0, 0.0)  # else the status, and the seconds that Retry-After asks for
_LAST_PAUSE = 86400.0  # seconds; no pause is longer, whatever an answer asks for


def _destination(product: Product, environ: Mapping[str, str], config: _Config, ci: bool,
                 agent: str) -> _Destination:
    """Where events go now, or why nowhere. The first destination that is set counts, and Google's beside a
    placeholder is not. An ID and a secret stay with the endpoint that they came with."""
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
    """The seconds that a Retry-After header asks for, from one to a day's. Raises anything for rubbish."""
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
_BOUND_TO = ("endpoint", "measurement_id", "client_id")  # what an event is never sent to another of
_EVENT = "[0-9]{16}(-[0-9a-fA-F]{8}){3}[.]json"
_NAME_LENGTH = 48  # of what matches
_CLAIM = f"{_EVENT}[.][0-9a-f]{{8}}-[0-9]+[.]claim"
_STATE = "(hold|[0-9a-f]{8})[.]state"
_WAITS = f"{_EVENT}|{_CLAIM}|{_EVENT}{_TEMPORARY}"
_OURS = f"{_WAITS}|{_STATE}|{_STATE}{_TEMPORARY}"
# Seconds until a file of this ending is no longer kept; a state counts failures of weeks in a row.
_MAX_AGES = MappingProxyType({"state": 30 * 86400.0, "claim": _STALE_SECONDS, "tmp": _STALE_SECONDS})
# Why nothing is tried: the word of `status` for each reason, and how long it lasts at most.
_REASONS = MappingProxyType({"notice": ("hold", _MINUTE), "failed": ("pause", _LAST_PAUSE),
                             "cut": ("pause", _MINUTE), "delivered": ("rest", _MINUTE)})
_State = namedtuple("_State", "why until failures", defaults=("", 0.0, 0))


def _claim_name(event: str) -> str:
    """The name of an event's file while this process is sending it."""
    return f"{event}.{_token()}.claim"


class _Outbox:
    """Events that wait on disk, shared by every process of a user; renaming is the only lock.

    | name | what it is |
    | --- | --- |
    | `<microseconds>-<client>-<destination>-<random>.json` | an event that waits |
    | the same with `.<process>.claim` | an event that a process is sending |
    | `<destination>.state` | why nothing is tried and until when: a pause or a rest; failures in a row |
    | `hold.state` | the same for every destination: the first-run notice was just shown |
    | `*.tmp` | a file being written |
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder  # an empty text, when there is no place, is no folder to the system

    def path(self, name: str = "") -> str:
        return os.path.join(self._folder, name)

    def names(self, pattern: str) -> list[str]:
        """What lies here and matches, oldest first. Raises OSError if the folder can't be read."""
        try:
            return sorted(filter(re.compile(pattern).fullmatch, os.listdir(self._folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def waiting(self, to: _Destination) -> list[str]:
        """Names of the events that wait for this client and destination, oldest first."""
        return self.names(f"[0-9]{{16}}-{to.client_id[:8]}-{to.key}-[0-9a-f]{{8}}[.]json")

    def present(self) -> set[str]:
        """Names of all events that wait or are being sent; of two looks, because a file that is being renamed
        may escape one."""
        found = self.names(f"{_EVENT}|{_CLAIM}") + self.names(f"{_EVENT}|{_CLAIM}")
        return {name[:_NAME_LENGTH] for name in found}

    def put(self, to: _Destination, event: dict[str, Any]) -> str:
        """Write an event, complete or not at all, and return its name. Raises OSError, ValueError."""
        stamp = event["timestamp_micros"]
        name = f"{stamp:016d}-{to.client_id[:8]}-{to.key}-{os.urandom(4).hex()}.json"
        record = {**{part: getattr(to, part) for part in _BOUND_TO}, "event": event}
        _make_folder(self._folder)
        _store(self.path(name), json.dumps(record, allow_nan=False).encode())
        if stamp % 50 == 0:  # one of fifty in a row, because a look at a full outbox takes its time
            self.trim()
        return name

    def trim(self) -> None:
        """Delete events beyond the newest 500 and the last 28 days. Raises OSError."""
        oldest = f"{max(0.0, _wall_time() - _MAX_AGE) * 1e6:016.0f}"
        for number, name in enumerate(reversed(self.names(_EVENT))):
            if number >= _MAX_WAITING or name < oldest:
                _unlink(self.path(name))

    def tidy(self, client_id: str) -> None:
        """Give back claims of processes that are gone; delete what is old or foreign."""
        for name in self.names(_OURS):
            path, ending = self.path(name), name.rpartition(".")[2]
            if ending == "json":  # as old as its own stamp says: one of a clock that was ahead is not old
                is_over = _wall_time() - int(name[:16]) / 1e6 > _MAX_AGE or name[17:25] != client_id[:8]
            else:
                is_over = _age(path) > _MAX_AGES[ending] and _token() not in name
            with suppress(OSError):
                if is_over and ending == "claim":
                    _patiently(os.replace, path, self.path(name[:_NAME_LENGTH]))
                elif is_over:
                    os.unlink(path)

    def take(self, to: _Destination, own: Iterable[str]) -> dict[str, Any]:
        """Claim up to 25 waiting events, those named `own` first: the events by their names."""
        events: dict[str, Any] = {}
        for name in sorted(self.waiting(to), key=lambda waiting: waiting not in own):
            if len(events) == _MAX_BATCH:
                break
            with suppress(OSError):  # another process takes it first, or it can't be taken
                event = self._load(name, to)
                if event:
                    _touch(self.path(name))  # because a claim is as old as its file
                    os.rename(self.path(name), self.path(_claim_name(name)))
                    events[name] = event
                else:
                    os.unlink(self.path(name))
        return events

    def _load(self, name: str, to: _Destination) -> Any:
        """The event in a file; None if that is damaged or for another destination. Raises OSError."""
        with suppress(ValueError, KeyError, RecursionError):
            record = _read_json(self.path(name))
            event, bound_to = record["event"], [record[part] for part in _BOUND_TO]
            is_ours = bound_to == [getattr(to, part) for part in _BOUND_TO] and isinstance(event, dict)
            is_ours = is_ours and type(event.get("timestamp_micros")) is int
            return event if is_ours and len(json.dumps(event, allow_nan=False)) <= _MAX_EVENT else None

    def give_back(self, events: Iterable[str]) -> None:
        """Let events that this process has claimed wait again."""
        for name in events:
            with suppress(OSError):
                _patiently(os.replace, self.path(_claim_name(name)), self.path(name))
        with suppress(OSError):
            self.trim()

    def delete(self, events: Iterable[str]) -> None:
        """Delete events that this process has claimed."""
        for name in events:
            _unlink(self.path(_claim_name(name)))

    def clear(self, pattern: str = _WAITS) -> None:
        """Delete what waits, or what matches. Raises OSError if something stays."""
        for _ in range(10):  # because others rename meanwhile
            names = self.names(pattern)
            if not names:
                with suppress(OSError):  # something else may be in it
                    os.rmdir(self._folder)
                return
            for name in names:
                _unlink(self.path(name))
        raise OSError(f"its outbox can't be emptied: {self._folder}")

    def state(self, name: str) -> _State:
        """The hold, pause or rest that is stored, with an empty `why` if it is over. One that would last
        longer than its kind allows is, because the clock was set back; a hold is not in the run that showed
        the notice."""
        with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
            record = _read_json(self.path(name + ".state"))
            why, until, failures = record["why"], float(record["until"]), max(0, int(record["failures"]))
            longest = _REASONS[why][1] + 1  # second, because sums are rounded
            began, left = until - longest, until - time.time()
            is_this_run = why == "notice" and record["process"] == os.getpid() and began + 1 >= _PROCESS_START
            is_on = left <= longest and (left > 0 or is_this_run)
            return _State(why if is_on else "", until, failures)
        return _State()

    def obstacle(self, to: _Destination) -> _State:
        """What keeps the events of a destination here; an empty state for nothing."""
        hold, other = _State() if to.at_once else self.state("hold"), self.state(to.key)
        is_passed = to.at_once and other.why == "delivered"
        return hold if hold.why else _State() if is_passed else other

    def begin(self, name: str, why: str, seconds: float, failures: int = 0) -> None:
        """Store that nothing is tried from now on. Raises OSError."""
        record = {"why": why, "until": time.time() + seconds, "failures": failures, "process": os.getpid()}
        _make_folder(self._folder)
        _store(self.path(name + ".state"), json.dumps(record).encode())

    def rest(self, to: _Destination) -> None:
        """After a delivery begin a rest, where the destination knows one; the failures are forgotten."""
        with suppress(OSError):
            if to.at_once:
                os.unlink(self.path(to.key + ".state"))
            else:
                self.begin(to.key, "delivered", _MINUTE)

    def pause(self, to: _Destination, asked: float, is_fair: bool) -> None:
        """Begin a pause of 10 minutes, doubled with each failure in a row, or of `asked` seconds if not 0; of
        a minute, which counts as no failure, for a request that had no fair chance."""
        why, _, failures = self.state(to.key)
        seconds = asked or min(_FIRST_PAUSE * 2 ** min(failures, 8), _LAST_PAUSE)
        if asked or why not in ("failed", "cut"):  # else another process failed with us: that is one failure
            with suppress(OSError):
                self.begin(to.key, *("failed", seconds, failures + 1) if is_fair else ("cut", _MINUTE, failures))


# === Sender: how does it leave? ===

_REQUEST_SECONDS = 1.0
_FAIR_SECONDS = 0.25  # a request cut shorter by the exit proves nothing, so none begins with less left
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
        with suppress(OSError), ExitStack() as failed:  # this one does not answer
            connection = failed.enter_context(closing(kind(*family)))
            connection.settimeout((end - _Clock.now()) / (len(found) - number))
            if connection.fileno() > 2:  # else it stands in the place of a closed standard stream
                connection.connect(place)
                failed.pop_all()
                return connection
    raise OSError("no address of the host answers")


def _connection_class(scheme: str, query: str, may_post: Callable[[], bool], end: float) -> Any:
    """A class of HTTP connections that are over with the second, and send no header but our own. They alone
    know the URL's query with the secret, because what a host has patched in may write URLs into traces."""
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


class _Sender:
    """Sends what waits on one daemon thread of a process: claim, post, settle, until nothing may be sent. The
    thread and the exit share one value, the request that is on its way: either of them settles it, once."""

    def __init__(self, outbox: _Outbox, look: Callable[[], _Destination | None]) -> None:
        self.outbox, self._look = outbox, look  # `look` tells where the user lets events go now
        self._lock = threading.RLock()   # guards what follows; reentrant, because signal handlers may record
        self._ended: threading.Event | None = None  # of the thread that runs: set when it is over
        self._on_its_way: Any = None     # a _Request
        self._own: set[str] = set()      # events of this object that are not known to be delivered
        self._lost = False               # one of them was refused, or could not be written
        self._flushes = 0                # calls of `flush` under way: they pass over a rest
        self._leave_by = float("inf")    # when the exit stops waiting
        self.loading = _fork_lock()      # held while the network code loads

    def record(self, to: _Destination, event: dict[str, Any]) -> None:
        """Put an event into the outbox, as one of this run. Raises OSError, ValueError."""
        try:
            name = self.outbox.put(to, event)
        except (OSError, ValueError):
            self._lost = True
            raise
        with self._lock:
            if len(self._own) >= _MAX_WAITING:
                self._own, self._lost = set(), True
            self._own.add(name)

    def destination(self, to: _Destination | None) -> _Destination | None:
        """Where something may go now, of `to`, where the user lets it go: the one answer that all ask for."""
        why = self.outbox.obstacle(to).why if to else "no"
        is_over = why == "delivered" and to and (self._flushes or len(self.outbox.waiting(to)) >= _MAX_BATCH)
        return to if not why or is_over else None

    def start(self) -> None:
        """See to it that the thread runs. Without one to be had, what waits is left to the next run."""
        with self._lock:
            if self._ended or self._leave_by < float("inf") or not _can_start():
                return
            self._ended = ended = threading.Event()
            try:
                threading.Thread(None, self._run, "telemetry", (ended,), daemon=True).start()
            except RuntimeError:
                self._ended = None

    def _run(self, ended: threading.Event) -> None:
        """The thread. It loads first, because an exit that came in the middle would leave a claim behind."""
        with self.loading:
            is_ready = _quietly(_load_network_code, False)
        while is_ready and _quietly(self._send, False):
            pass  # what goes wrong here is not for the host's eyes
        with self._lock:
            if self._ended is ended:  # else another thread has begun
                self._ended = None
        ended.set()

    def _send(self) -> bool:
        """Claim, post and settle up to 25 events. Returns False when the thread has to end: that is decided in
        one step with the look for events, so that none falls between."""
        with self._lock:
            to, left, events = self.destination(self._look()), self._leave_by - _Clock.now(), {}
            if to and left >= _FAIR_SECONDS:
                self.outbox.tidy(to.client_id)
                # The exit waits for events of this run only.
                if left == float("inf") or not self._own.isdisjoint(self.outbox.waiting(to)):
                    events = self.outbox.take(to, self._own)
            if not events:
                self._ended = None
                return False
            request: Any = _Request(to, events, _Clock.now())
            self._on_its_way = request
        post = partial(_post, request.to, [*events.values()], partial(self._may_post, request),
                       request.began + _REQUEST_SECONDS)
        return self._settle(request, _quietly(post, _NO_ANSWER))

    def _may_post(self, request: Any) -> bool:
        """Whether a request about to go still may: a rest that began meanwhile does not stop it."""
        return (_Clock.now() < min(request.began + _REQUEST_SECONDS, self._leave_by)
                and self._on_its_way is request and self._is_allowed(request))

    def _is_allowed(self, request: Any) -> bool:
        """Whether no user, hold or pause says no meanwhile, and no other process has taken an event over."""
        if self._look() != request.to:  # first, because it tells where no file can be opened
            return False
        is_whole = set(map(_claim_name, request.events)).issubset(self.outbox.names(_CLAIM))
        return is_whole and self.outbox.obstacle(request.to).why in ("", "delivered")

    def _settle(self, request: Any, answer: tuple[int, float], is_fair: bool = True) -> bool:
        """Delete or keep the events of a request, once, by its answer: whether that delivered them."""
        status, asked = answer
        is_delivered = 200 <= status < 300
        is_refused = 400 <= status < 500 and status not in _KEPT_4XX
        with self._lock:
            if self._on_its_way is not request:
                return False
            self._on_its_way = None
            is_allowed = self._is_allowed(request)
            if is_allowed and not is_delivered:
                self.outbox.pause(request.to, asked, is_fair)
            if is_delivered or is_refused:
                self._lost = self._lost or is_refused and not self._own.isdisjoint(request.events)
                self.outbox.delete(request.events)
                self._own.difference_update(request.events)
            else:
                self.outbox.give_back(request.events)
            if is_delivered and is_allowed:
                self.outbox.rest(request.to)
        return is_delivered

    def flush(self, timeout: float) -> bool:
        """Wait until all that this object recorded is delivered: True; False as soon as that can't be."""
        deadline = _Clock.now() + timeout
        with self._lock:
            self._flushes += 1
        try:
            while self._own:
                to, left = self.destination(self._look()), deadline - _Clock.now()
                with self._lock:  # what is gone some process delivered, if it may, of the user's present ID
                    gone = self._own - self.outbox.present()
                    self._own -= gone
                    self._lost = self._lost or any(not to or name[17:25] != to.client_id[:8] for name in gone)
                if not to or left <= 0:
                    break
                self.outbox.tidy(to.client_id)  # another process may have died with an event of ours
                if self.outbox.waiting(to):
                    self.start()
                    if not (self._ended or _can_start()):
                        break
                threading.Event().wait(min(left, 0.01))
        finally:
            with self._lock:  # so that who settles has come to the end
                self._flushes -= 1
        return not (self._own or self._lost)

    def leave(self, wait: float) -> None:
        """Let the thread send this run's events for so many seconds, then settle what is still on its way."""
        with suppress(KeyboardInterrupt, SystemExit):  # of a signal handler
            with self._lock:  # so that no claim is being made
                self._leave_by, ended = _Clock.now() + wait, self._ended
            left = wait
            while ended and not ended.is_set() and (self._own or self._on_its_way) and left > 0:
                ended.wait(min(left, 0.05))  # in slices, because Windows lets no Ctrl-C through a wait
                left = self._leave_by - _Clock.now()
        self._leave_by = min(self._leave_by, _Clock.now())
        with suppress(KeyboardInterrupt, SystemExit, OSError), self._lock:  # held until all is settled
            request = self._on_its_way
            if request:
                self._settle(request, _NO_ANSWER, _Clock.now() - request.began >= _FAIR_SECONDS)
            if self._own:
                self.outbox.trim()  # the last of many processes leaves no more than may wait


# === Telemetry: what the tool calls ===

# All that is looked at before anything is recorded or sent: `is_due` is whether the notice has to be shown,
# `way` where the user lets events go now, None for nowhere.
_Situation = namedtuple("_Situation", "refusal debug config to is_due way",
                        defaults=(_MISSING, _Destination("nobody", problem="it is off"), False, None))
_CAPTURED = _Situation("", False, _Config("", True, True, "nobody"))  # in the tests of a host


def _say(name: str, text: str) -> bool:
    """Write to `stdout` or `stderr`, with `?` for what it can't print: whether every byte was written. What
    the host has put in place of a stream is written to by its own `write`."""
    def write() -> bool:
        stream: Any = getattr(sys, name)
        plain = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        if not "┌".encode(encoding, "ignore"):  # the frame of the notice
            plain = plain.translate(str.maketrans("┌─┐│└┘", "+-+|++"))
        data, written = plain.encode(encoding, "replace"), 0
        if type(stream) is not TextIOWrapper:
            count = stream.write(data.decode(encoding))
            getattr(stream, "flush", bool)()
            return type(count) is not int or not 0 < count < len(plain)  # 0 says what a display holds back
        stream.flush()
        whole: Any = stream.buffer  # what stays in it after an error fails again when the interpreter ends,
        raw = getattr(whole, "raw", whole)  # and changes the exit code
        while written < len(data):
            more = raw.write(data[written:])
            if not more:  # it is full, and does not block
                return False
            written += more
        return True
    return bool(_quietly(write, False))  # it may be closed, or the host's own object


def _is_terminal() -> bool:
    """Whether standard error is a terminal, or a display in its place that does not know that it is one. For
    Windows NUL is one, too, but has no size, which raises."""
    def found() -> bool:
        is_terminal = sys.stderr.isatty() is True or os.isatty(sys.stderr.fileno())
        return is_terminal and (os.name != "nt" or bool(os.get_terminal_size(sys.stderr.fileno())))
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
    """Look at environment, project and config file; off by environment, at no file unless `at_all`. With
    `at_all`, for `status`, it does not matter whether anybody can see the notice."""
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


def _introduce(product: Product, path: str, seen: _Situation, outbox: _Outbox) -> bool:
    """Make the config file and show the notice where they are due: whether events may be recorded then. Who
    does not get the lock lets the other process show it. On failure nothing is left."""
    def show(before: dict[str, Any]) -> None:
        if before.get("hasShownTelemetryNotice") is not True:  # else another process has just shown it
            outbox.begin("hold", "notice", _MINUTE)  # before the mark: processes beside us keep it, too
            if not _say("stderr", _notice(product)):
                raise OSError("nobody was told")

    is_shown, is_new = seen.is_due and _is_terminal(), False
    try:
        is_new = seen.config is _MISSING and _create_config(path, True)
        if is_shown:
            _edit(path, lambda document: document.update(hasShownTelemetryNotice=True), 0.0, show)
        elif not _read_config(path).client_id:
            _edit(path, bool, 0.1)
    except _Busy:
        pass
    except (OSError, ValueError):
        if is_shown:
            with suppress(OSError):
                outbox.clear("hold[.]state")
                if is_new:
                    os.unlink(os.path.realpath(path))
                    os.rmdir(os.path.dirname(path))
        return bool(not is_shown or seen.to.at_once)
    return True


def _never_raises(default: object) -> Callable[[T], T]:
    """Let a method of `Telemetry` return the default where it would raise; debug mode shows the error, and
    where the host's tests capture events it goes on."""
    def decorate(method: Any) -> Any:
        @wraps(method)
        def guarded(self: Telemetry, /, *args: Any, **params: Any) -> Any:
            try:
                return method(self, *args, **params)
            except Exception as error:  # broad on purpose: telemetry never breaks its host
                if self._captured is not None:
                    raise
                kind = error.__class__  # no call, because the stack may be full, and the error holds objects
            if _quietly(lambda: self._look().debug, False):
                self._explain(f"unexpected {kind.__name__}")
            return default
        return guarded
    return decorate


class _Command:
    """What `Telemetry.command` returns."""

    def __init__(self, telemetry: Telemetry, name: object, flags: Any, params: dict[str, object]) -> None:
        self._telemetry, self._began, self._failed = telemetry, _Clock.now(), ""
        self._flags, self._params = flags, {"command": name, **params}
        telemetry._check("command_executed", self._params)

    def update(self, /, **params: object) -> None:
        """Add what is known only later."""
        self._telemetry._check("command_executed", params)
        self._params.update(params)

    def fail(self, error: object) -> None:
        """Say that the command failed, with an exception or a category of `ERROR_TYPES`: for tools that print
        an error and return a code, or exit. Another exception that leaves the block wins over it."""
        self._failed = _plain(error) if _plain(error) in ERROR_TYPES else error_type(error)

    def __enter__(self) -> _Command:
        self._telemetry._begin()
        self._began = _Clock.now()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        category = self._failed
        if error is not None and not (_quietly(lambda: _is_exit(error), False)):
            category = error_type(error)
        elif error is not None and not category:
            code = _quietly(lambda: getattr(error, "exit_code", getattr(error, "code", 1)), 1)
            is_success = code is None or issubclass(type(code), int) and code == 0
            category = "" if is_success else error_type(error)
        spent = round((_Clock.now() - self._began) * 1000)
        params = {"duration": spent, "success": True, "flags": self._flags}
        self._telemetry._record_command({**params, **self._params}, category)


class Telemetry:
    """Anonymous usage of one tool. No method raises, waits for the network or prints, except as documented.

    `version` is the tool's (letters, digits, `.+-_!`). `project` is the `telemetry` section of the project's
    own configuration, a mapping or None. `exit_wait` is how many seconds the interpreter's exit may wait.
    `captured` is for a host's tests: a list that gets every event as it would be on the wire. Then nothing is
    read, written, shown or sent, and ValueError is raised for what the product's table does not declare.
    """

    def __init__(self, product: Product = CODEGEN, *, version: str = "unknown",
                 project: Mapping[str, object] | None = None, exit_wait: int | float = 1.0,
                 captured: list[dict[str, Any]] | None = None) -> None:
        self._product, self._project, self._captured = product, project, captured
        self._exit_wait = float(_quietly(lambda: _number(exit_wait), None) or 0)
        text = _plain(version)
        self._version = text if re.fullmatch("[A-Za-z0-9.+!_-]{1,64}", text) else "unknown"
        self._user_agent = f"{re.sub('[^A-Za-z0-9._-]', '-', product.command)}/{self._version}"
        self._path, self._ci, self._agent = _config_path(product), is_ci(), _agent()
        self._outbox = _Outbox(self._path and os.path.join(os.path.dirname(self._path), "outbox"))
        self._project_no: bool | None = None  # the project's answer, once it was looked for
        self._is_closed = self._is_interrupted = False
        self._senders: dict[int, _Sender] = {}  # by process: a forked child starts anew

    @property
    @_never_raises(False)
    def enabled(self) -> bool:
        """Whether telemetry is on."""
        return not self._look().refusal

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
        return _Command(self, _plain(name) or params.pop("name", ""), flags, params)

    @_never_raises(False)
    def flush(self, timeout: int | float = 1.0) -> bool:
        """Wait at most `timeout` seconds. True: all that this object recorded has been delivered."""
        return self._sender().flush(float(timeout))

    @_never_raises(False)
    def close(self, timeout: int | float = 1.0) -> bool:
        """Flush, then record nothing more: for hosts that end by `os._exit` or `os.exec*`."""
        began = _Clock.now()
        is_delivered, self._is_closed = self.flush(timeout), True
        atexit.unregister(self._at_exit)
        self._sender().leave(max(0.0, began + float(timeout) - _Clock.now()))  # a request may be under way
        return is_delivered

    def _project_says_no(self) -> bool:
        """The project's answer, looked for once: what the host parsed, else a file in the working folder."""
        if self._project_no is None:
            files = self._product.project_files if self._project is None else ()
            self._project_no = _says_no(self._project) or any(
                _file_says_no(file, self._product.command) for file in files)
        return self._project_no

    def _look(self, at_all: bool = False) -> _Situation:
        return _CAPTURED if self._captured is not None else _look(self._product, self._path, self._ci, self._user_agent, self._project_says_no,
                                                                  at_all)

    def _sender(self) -> _Sender:
        """This process's sender."""
        process = os.getpid()
        if process not in self._senders:
            self._senders.setdefault(process, _Sender(self._outbox, lambda: self._look().way))
            atexit.unregister(self._at_exit)  # which a fork inherits
            atexit.register(self._at_exit)
        return self._senders[process]

    def _check(self, event: str, params: Mapping[str, object]) -> None:
        """Where events are captured, raise ValueError for what the table does not declare."""
        declared = self._product.events.get(event)
        if self._captured is not None and not (declared is not None and declared.keys() >= params.keys()):
            names = [name for name in params if name not in (declared or ())]
            raise ValueError(f"{self._product.command} declares no event {event!r}" if declared is None
                             else f"event {event!r} declares no parameter {', '.join(names)}")

    def _record(self, event: str, params: Mapping[str, object]) -> Any:
        """Check and shape an event, and deliver it: to the outbox, to a test, or in debug mode to the eye. The
        destination for which it waits then, else None."""
        declared, seen = self._product.events.get(event), self._look()
        if declared is not None and not self._is_closed:
            seen = self._introduced(seen)
        explain = self._explain if seen.debug else lambda line: None
        if seen.refusal or self._is_closed:
            self._discard(seen)
            explain(f"telemetry is off: {seen.refusal or 'closed'}")
        elif declared is None:
            explain(f"dropped an event: {ascii(event)[:60]} is not declared")
        else:
            kept, dropped = _checked(declared, params)
            for line in dropped:
                explain(f"dropped a parameter of {event}: {line}")
            shaped = _event(event, kept, declared, self._version, self._ci, self._agent)
            if self._captured is not None:
                self._captured.append(shaped)
            elif seen.debug:
                self._explain_request(seen.to, shaped)
            elif not seen.to.problem:  # else there is nobody to send it to
                self._sender().record(seen.to, shaped)
                return seen.to
        return None

    def _introduced(self, seen: _Situation) -> _Situation:
        """The situation after the config file was made and the notice was shown, if they were due."""
        if seen.refusal or seen.debug or seen.config.client_id and not seen.is_due:
            return seen
        is_told = _introduce(self._product, self._path, seen, self._outbox)
        seen = self._look()
        no_place = "" if seen.config.client_id else f"no place for {self._path}"
        return seen._replace(refusal=seen.refusal or (no_place if is_told else _UNTOLD))

    def _discard(self, seen: _Situation) -> None:
        """Delete what waits if the config file says no: another program may have written that."""
        if seen.refusal == self._path and not seen.config.problem:
            with suppress(OSError):
                self._outbox.clear()

    def _wake(self, to: _Destination | None) -> None:
        """See to it that the thread runs where something may go to this destination now."""
        if to and self._sender().destination(to):
            self._sender().start()

    @_never_raises(None)
    def _begin(self) -> None:
        """At a command's begin, start the thread: it loads the network code and sends what waits."""
        if not self._is_closed:
            seen = self._look()
            self._discard(seen)
            self._wake(seen.way)

    @_never_raises(None)
    def _record_command(self, params: dict[str, object], category: str) -> None:
        """Record a command that ended and the category of the error that ended it, each as far as the table
        declares it. Who pressed Ctrl-C does not want to wait."""
        events = self._product.events
        declared, failed = events.get("command_executed", {}), events.get("error_occurred", {})
        self._is_interrupted = category == "interrupted"
        if category and "success" in declared:
            params["success"] = False
        added = {"flags", "duration", "success"}.difference(declared)
        to = self._record("command_executed", {name: params[name] for name in params if name not in added})
        if category and failed:
            error = {"command": params["command"], "error_type": category}
            to = self._record("error_occurred", {name: error[name] for name in error if name in failed}) or to
        if not self._is_interrupted:
            self._wake(to)
        else:
            with self._sender().loading:  # what loads makes CPython forget that Ctrl-C ended the main module
                pass

    @_never_raises(None)
    def _at_exit(self) -> None:
        """Wait for this run's events, but not after Ctrl-C."""
        sender = self._senders.get(os.getpid())
        if sender:
            sender.leave(0.0 if self._is_interrupted else self._exit_wait)

    def _explain(self, line: str) -> None:
        _say("stderr", f"[telemetry] {line}\n")

    def _explain_request(self, to: _Destination, event: dict[str, Any]) -> None:
        """Debug mode's way to deliver: show the request on standard error. Without a config file it shows an
        ID that is kept nowhere."""
        import uuid
        to = to._replace(client_id=to.client_id or str(uuid.UUID(bytes=_RUN, version=4)))
        url, headers, body = _request(to, [event])
        problem = to.problem and f"no destination, nothing would be sent: {to.problem}"
        self._explain("\n".join(["debug mode, nothing is sent", problem or f"POST {_masked(url)}",
                                 *map(": ".join, headers.items()), "", body.decode()]))


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


def _kind_text(kind: Kind) -> str:
    """A kind with the words that it lets through."""
    if isinstance(kind, Mapping):
        return "; ".join(["options", *(f"{option}: {', '.join(kind[option])}" for option in kind)])
    if isinstance(kind, str):
        return kind
    return f"{'several' if isinstance(kind, _Several) else 'choice'}: {', '.join(kind)}"


def _variables(product: Product, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of ours that are set, and the effect of each."""
    prefix = product.env_prefix
    texts = [f"{prefix}_ENDPOINT", f"{prefix}_ID", f"{prefix}_API_SECRET"]
    has_endpoint = environ.get(texts[0], "").strip()
    effect = "sets the destination" if has_endpoint else f"no effect without {texts[0]}"
    effects = {"DO_NOT_TRACK": "turns telemetry off", f"{prefix}_DISABLED": "turns telemetry off",
               f"{prefix}_DEBUG": "shows requests instead of sending them", **dict.fromkeys(texts, effect)}
    if _variable_refusal(product, environ) == "PYTEST_VERSION":
        effects["PYTEST_VERSION"] = "turns telemetry off: a test-suite is not usage"
    none = "no effect (empty, or a word for no)"
    return {name: effects[name] if _is_set(environ, name) or name in texts and environ[name].strip() else none
            for name in effects if name in environ}


def _waiting(outbox: _Outbox, seen: _Situation) -> dict[str, Any]:
    """What waits in the outbox, and what keeps it there."""
    names: list[str] = []
    with suppress(OSError):
        mine = (seen.config.client_id or "none")[:8]
        names = sorted(name for name in outbox.present() if name[17:25] == mine)
    state = outbox.obstacle(seen.to)
    return {"events": len(names), "since": _time_text(int(names[0][:16]) / 1e6) if names else None,
            "folder": outbox.path().rstrip(os.sep), "kept_by": _REASONS[state.why][0] if state.why else None,
            "until": _time_text(state.until) if state.why else None}


def _status(product: Product, project: Mapping[str, object] | None,
            environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Everything that `status` shows, as JSON types. Reads only."""
    telemetry = Telemetry(product, project=project)
    seen = telemetry._look(at_all=True)
    config, to = seen.config, seen.to
    in_project = [f"telemetry: {{ enabled: false }} in {file}" for file in product.project_files[:1]]
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
        "waiting": _waiting(telemetry._outbox, seen),
        "environment": _variables(product, environ),
        "collected": {event: {name: _kind_text(kind) for name, kind in params.items()}
                      for event, params in product.events.items()},
        "collected_with_every_event": dict(_COMMON_PARAMS), "kinds": dict(KINDS),
        "never_collected": list(NEVER_COLLECTED),
        "turn_off": [product.opt_out, f"{product.env_prefix}_DISABLED=1", "DO_NOT_TRACK=1", *in_project],
    }


def _status_lines(status: dict[str, Any]) -> Iterator[str]:
    """The status for people: 80 columns and ASCII, but for paths and URLs that are otherwise."""
    from textwrap import TextWrapper  # needed here only
    wrap = TextWrapper(79, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False).wrap

    def text(value: Any) -> str:
        if value and isinstance(value, dict):  # the parameters of an event
            return "; ".join(f"{name} ({kind})" for name, kind in value.items())
        if isinstance(value, bool):
            return "yes" if value else "no"
        return "none" if value in (None, "", {}) else str(value)

    yield f"Telemetry is {'on' if status['enabled'] else 'off'}: {status['reason']}\n"
    for key, value in [*status.items()][2:]:
        is_table, title = isinstance(value, (dict, list)), key.replace("_", " ")
        rows = [f"{name.replace('_', ' ') if key == 'waiting' else name}: {text(item)}"
                for name, item in value.items()] if isinstance(value, dict) else value
        yield from [""] * is_table + ([f"{title}:"] if is_table and rows else wrap(f"{title}: {text(value)}"))
        for row in rows if is_table else ():
            yield from wrap(f"  {row}")


def _decided(product: Product, project: Mapping[str, object] | None, enabled: bool) -> int:
    """`enable` and `disable`: store the user's decision, and delete what waits, or what keeps it. The exit
    code."""
    telemetry = Telemetry(product, project=project)
    path, outbox, stored = telemetry._path, telemetry._outbox, False
    before, verb = _read_config(path), "enable" if enabled else "disable"
    told = "Telemetry is on. Thank you.\n" if enabled else (
        "Telemetry is off. What waited to be sent is deleted.\n")
    try:
        if enabled and not (before.enabled or before.problem):
            outbox.clear()  # an event may have come during the `disable`
        try:
            _decide(path, enabled)
            stored = True
        finally:
            outbox.clear(_STATE if enabled else _OURS)
    except (OSError, ValueError, RecursionError) as error:
        told = f"Could not {verb} telemetry: {error}\n" + (
            f"This works instead: set {product.env_prefix}_DISABLED=1 in the environment.\n" * (not enabled))
        if stored:
            told = f"Telemetry is {'on' if enabled else 'off'}, that is stored. But {error}\n"
    else:
        seen = telemetry._look(at_all=True)
        if enabled and seen.refusal:
            told = f"Telemetry is enabled for this user, but still off here:\n{seen.refusal} says no.\n"
        _say("stderr", told + f"The damaged config file is kept:\n{path}.bak\n" * bool(before.problem))
        return 0
    _say("stderr", told)
    return 1


def main(argv: list[str] | None = None, *, product: Product = CODEGEN,
         project: Mapping[str, object] | None = None) -> int:
    """The command line: `status [--json]`, `enable`, `disable`. Facts go to standard output, messages to
    standard error. `project` is as in `Telemetry`. Returns 0 for done, 1 for could not, 2 for wrong usage;
    never raises SystemExit."""
    arguments = list(map(str, sys.argv[1:] if argv is None else argv))
    usage = _USAGE.format(command=product.command)
    if {"-h", "--help"} & set(arguments):
        _say("stdout", usage)
    elif arguments in (["enable"], ["disable"]):
        return _decided(product, project, arguments == ["enable"])
    elif sorted(arguments) in (["status"], ["--json", "status"]):
        status = _status(product, project)
        text = json.dumps(status, indent=2) if "--json" in arguments else "\n".join(_status_lines(status))
        _say("stdout", text + "\n")
    else:
        unknown = [f"{product.command} telemetry: {ascii(word)} is unknown\n" for word in arguments
                   if word not in ("status", "--json", "enable", "disable")]
        _say("stderr", "".join(unknown[:1]) + usage)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
