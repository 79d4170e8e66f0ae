# SPDX-License-Identifier: 0BSD
"""Anonymous usage telemetry for a command-line tool, in one file of standard library.

Copy this file into your package, describe your tool with a `Product`, and call:

| name | what it is |
| --- | --- |
| `Product` | who is speaking: an immutable description of a tool; `CODEGEN` is one |
| `input_source(value)` | where an input lies (never the input itself) |
| `error_type(exc)` | the category of an exception, from its type alone |
| `is_ci(environ)` | whether a continuous integration service runs us |
| `Telemetry(product, version=...)` | `track`, `command`, `flush`, `close`, `enabled`, `reason` |
| `main(argv, product=...)` | the command line: `status`, `enable`, `disable` |

    telemetry = Telemetry(Product(name="Example", command="example"), version="1.0")
    with telemetry.command("build", flags=["--watch"]):
        ...                     # the tool's work

What a reviewer may rely on:

- Any "no" wins: `DO_NOT_TRACK`, `<PREFIX>_DISABLED`, the project, the user's config file, no place for that file.
- Only what `Product.events` declares leaves; there is no free text, path, message, user or host name in it.
- `track` writes one small file and returns; a daemon thread sends. One request takes at most a second, the exit
  of the interpreter waits at most `exit_wait` seconds, and after a failure nothing is tried for ten minutes and more.
- Importing does nothing. Nothing is printed but the first-run notice and, when asked for, debug output.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import stat
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import (TYPE_CHECKING, Any, Callable, Deque, Dict, FrozenSet, Iterable, Iterator, List, Mapping,
                    NamedTuple, Optional, TextIO, Tuple, TypeVar, Union)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Type
    from urllib.request import OpenerDirector

__all__ = ["CODEGEN", "Product", "Telemetry", "error_type", "input_source", "is_ci", "main"]
__version__ = "1.0.0"

# === Product: who is speaking? ===

Kind = Union[str, Tuple[str, ...], Mapping[str, Tuple[str, ...]]]
Events = Mapping[str, Mapping[str, Kind]]

INPUT_SOURCES = ("remote_url", "local_relative", "local_absolute")
ERROR_TYPES = ("configuration_error", "file_not_found", "network_error", "parse_error", "validation_error",
               "permission_error", "interrupted", "unknown_error")

# What each kind lets through; `status` and the README print these words.
KINDS = MappingProxyType({
    "flag": "true or false",
    "count": "a whole number",
    "milliseconds": "a whole number of milliseconds",
    "choice": "one of a fixed list of words, else other",
    "word": "a word the tool's author chose, else other",
    "words": "several of them, joined by commas",
    "options": "true, false, numbers and fixed words; other text becomes custom",
})

# Google's limits and reserved names for web streams:
# https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference?client_type=gtag
# https://support.google.com/analytics/answer/13316687
_MAX_PARAMS, _MAX_NAME, _MAX_TEXT = 25, 40, 100
_COMMON_PARAMS = ("cli_version", "python_version", "os", "ci", "session_id", "engagement_time_msec")
_RESERVED_PREFIXES = ("_", "firebase_", "ga_", "google_", "gtag.")
_RESERVED_EVENTS = frozenset("""
    ad_activeview ad_click ad_exposure ad_impression ad_query ad_reward adunit_exposure app_clear_data app_exception
    app_install app_remove app_store_refund app_update app_upgrade dynamic_link_app_open dynamic_link_app_update
    dynamic_link_first_open error firebase_campaign firebase_in_app_message_action firebase_in_app_message_dismiss
    firebase_in_app_message_impression first_open first_visit in_app_purchase notification_dismiss
    notification_foreground notification_open notification_receive notification_send os_update screen_view
    session_start user_engagement""".split())
_RESERVED_PARAMS = frozenset(("firebase_conversion", "items", "value", "currency"))  # the last three: see _TEXT_PARAMS
# Parameters with a fixed type in every event, by Google's Event Builder; `items` is an array, `value` and `currency`
# go together and no kind of ours can hold a currency: https://github.com/googleanalytics/ga-dev-tools
_NUMBER_PARAMS = frozenset(("shipping", "tax", "level", "score"))
_TEXT_PARAMS = frozenset("""
    transaction_id affiliation coupon shipping_tier virtual_currency_name payment_type group_id character method
    search_term content_type item_id item_list_id item_list_name creative_name creative_slot location_id promotion_id
    promotion_name item_name achievement_id""".split())
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = frozenset("0123456789")


def _name_problem(name: object, reserved: FrozenSet[str]) -> str:
    """Why GA4 would refuse this name of an event or parameter; empty if it takes it."""
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME:
        return f"must be a text of 1 to {_MAX_NAME} characters"
    if name[0] not in _LETTERS or not _LETTERS | _DIGITS | {"_"} >= set(name):
        return "must be letters, digits and _, and begin with a letter"
    if name in reserved or name.startswith(_RESERVED_PREFIXES):
        return "is reserved by Google Analytics"
    return ""


def _kind_name(kind: Kind) -> str:
    """The kind's name: `choice` for a list of words, `options` for a mapping, else what it says itself."""
    return kind if isinstance(kind, str) else "options" if isinstance(kind, Mapping) else "choice"


def _checked_kind(where: str, name: str, kind: Any) -> Kind:
    """An unchangeable copy of a declared kind. Raises ValueError for anything that is none."""
    if isinstance(kind, Mapping):
        return MappingProxyType({option: _checked_words(f"{where}.{option}", words) for option, words in kind.items()})
    if not isinstance(kind, str):
        return _checked_words(where, kind)
    if kind not in KINDS or kind == "choice":
        raise ValueError(f"{where}: unknown kind {kind!r}; a choice is declared as a tuple of its words")
    if name in _NUMBER_PARAMS and kind not in ("count", "milliseconds"):
        raise ValueError(f"{where}: Google Analytics takes only a number under this name")
    if name in _TEXT_PARAMS and kind not in ("word", "words"):
        raise ValueError(f"{where}: Google Analytics takes only a text under this name")
    return MappingProxyType({}) if kind == "options" else kind


def _checked_words(where: str, words: Any) -> Tuple[str, ...]:
    """The words of a choice as a tuple. Raises ValueError unless each is printable ASCII that fits a request."""
    if not isinstance(words, (tuple, list, set, frozenset)) or not words:
        raise ValueError(f"{where}: a choice is a tuple of words, not {words!r}")
    for word in words:
        if not (isinstance(word, str) and 0 < len(word) <= _MAX_TEXT and word.isascii() and word.isprintable()
                and not {'"', "\\", "*"} & set(word)):
            raise ValueError(f"{where}: {word!r} is not a word of 1 to {_MAX_TEXT} plain ASCII characters")
    return tuple(words if isinstance(words, (tuple, list)) else sorted(words))


def _checked_events(events: Events) -> Events:
    """An unchangeable copy of the event table. Raises ValueError for what GA4 would refuse."""
    checked: Dict[str, Mapping[str, Kind]] = {}
    for event, params in events.items():
        problem = _name_problem(event, _RESERVED_EVENTS)
        if problem:
            raise ValueError(f"event {event!r} {problem}")
        if len(params) + len(_COMMON_PARAMS) > _MAX_PARAMS:
            raise ValueError(f"event {event!r} has over {_MAX_PARAMS} parameters with the {len(_COMMON_PARAMS)} added")
        for name in params:
            problem = "is added to every event" if name in _COMMON_PARAMS else _name_problem(name, _RESERVED_PARAMS)
            if problem:
                raise ValueError(f"parameter {name!r} of event {event!r} {problem}")
        checked[event] = MappingProxyType({name: _checked_kind(f"{event}.{name}", name, kind)
                                           for name, kind in params.items()})
    return MappingProxyType(checked)


class Product:
    """A tool's identity, immutable. Every field is keyword-only and has a default.

    | field | what it is | default |
    | --- | --- | --- |
    | `name` | the name in the notice | `command` |
    | `command` | what users type, before `telemetry disable` | that of `CODEGEN` |
    | `env_prefix` | of `<env_prefix>_DISABLED`, `_DEBUG`, `_ENDPOINT`, `_ID`, `_API_SECRET` | `<COMMAND>_TELEMETRY` |
    | `directory` | folder of config file and outbox, below the home folder unless absolute | `.<command>` |
    | `docs_url` | the page that the notice names | none |
    | `endpoint` | where events go: an http(s) URL | Google Analytics 4 |
    | `tracking_id`, `api_secret` | GA4's measurement id and its secret; without both nothing is sent | none |
    | `events` | the event table: `{event: {parameter: kind}}` | that of `CODEGEN` |
    | `project_file` | JSON file in the working directory whose `telemetry.enabled` may say no | none |

    Without `command` the defaults are those of `CODEGEN`. A kind is one of the names in `KINDS`; a choice is the
    tuple of its words; options are a mapping from an option's name to the words that it may hold.
    Raises ValueError for an event that Google Analytics would refuse and for a malformed name, command or prefix.
    """

    __slots__ = ("name", "command", "env_prefix", "directory", "docs_url", "endpoint", "tracking_id", "api_secret",
                 "events", "project_file")
    name: str
    command: str
    env_prefix: str
    directory: str
    docs_url: str
    endpoint: str
    tracking_id: str
    api_secret: str
    events: Events
    project_file: str

    def __init__(self, *, name: Optional[str] = None, command: Optional[str] = None, env_prefix: Optional[str] = None,
                 directory: Optional[str] = None, docs_url: Optional[str] = None, endpoint: Optional[str] = None,
                 tracking_id: Optional[str] = None, api_secret: Optional[str] = None,
                 events: Optional[Events] = None, project_file: Optional[str] = None) -> None:
        fields: Dict[str, Any] = dict(_CODEGEN_FIELDS)
        if command is not None and command != fields["command"]:  # another tool has its own opt-out, folder and pages
            slug = "".join(c if c in _LETTERS | _DIGITS else "-" for c in command).strip("-")
            fields.update(name=command, env_prefix=slug.replace("-", "_").upper() + "_TELEMETRY",
                          directory="." + slug.lower(), docs_url="", project_file="")
        given = dict(name=name, command=command, env_prefix=env_prefix, directory=directory, docs_url=docs_url,
                     endpoint=endpoint, tracking_id=tracking_id, api_secret=api_secret, events=events,
                     project_file=project_file)
        fields.update((field, value) for field, value in given.items() if value is not None)
        for field in ("name", "command", "directory"):
            if not fields[field].strip() or not fields[field].isprintable():
                raise ValueError(f"{field} must be a printable text, not {fields[field]!r}")
        prefix = fields["env_prefix"]
        if not prefix or prefix[0] in _DIGITS or not _LETTERS | _DIGITS | {"_"} >= set(prefix):
            raise ValueError(f"env_prefix must be the beginning of a variable's name, not {prefix!r}")
        fields["events"] = _checked_events(fields["events"])
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Product is immutable: make another one with another {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Product is immutable")

    def __repr__(self) -> str:
        return f"<Product {self.command!r}>"  # never the secret

    def __reduce__(self) -> Tuple[Any, ...]:
        events = {event: {name: dict(kind) if isinstance(kind, Mapping) else kind for name, kind in params.items()}
                  for event, params in self.events.items()}
        fields = {field: getattr(self, field) for field in self.__slots__}
        return partial(Product, **{**fields, "events": events}), ()  # mapping proxies can't be pickled


_INPUT_TYPES = ("asyncapi", "openapi", "jsonschema")
_CODEGEN_FIELDS = MappingProxyType({
    "name": "The Codegen Project CLI",
    "command": "codegen",
    "env_prefix": "CODEGEN_TELEMETRY",
    "directory": ".the-codegen-project",
    "docs_url": "https://the-codegen-project.org/docs/telemetry",
    "endpoint": "https://www.google-analytics.com/mp/collect",
    "tracking_id": "G-XXXXXXXXXX",
    "api_secret": "",
    "project_file": "codegen.config.json",
    "events": {
        "command_executed": {
            "command": "word", "flags": "words", "input_source": INPUT_SOURCES, "input_type": _INPUT_TYPES,
            "generators": "words", "generator_count": "count", "duration": "milliseconds", "success": "flag"},
        "generator_used": {
            "generator_type": "word", "input_type": _INPUT_TYPES, "input_source": INPUT_SOURCES, "language": "word",
            "options": {"serializationType": ("json",)}, "duration": "milliseconds", "success": "flag"},
        "init_executed": {
            "config_type": "word", "input_type": _INPUT_TYPES, "generators": "words", "language": "word",
            "completed": "flag"},
        "error_occurred": {"command": "word", "error_type": ERROR_TYPES},
    },
})
CODEGEN = Product()

# === Config file: what is remembered? ===

_MAX_FILE = 64 * 1024      # bytes; ours has 400, so a larger one is not ours
_MAX_PROJECT_FILE = 1024 * 1024  # bytes; a project's configuration may be long, and its "no" must not be lost
_STALE_SECONDS = 10.0      # a lock, claim or temporary file this old belongs to a process that is gone
_DEFAULT_VERSION = "1.0.0"  # of the config file's format, as telemetry.md's example has it


class _Files(NamedTuple):
    """Where everything lies. `base` must exist already; `folder` is made below it when there is something to keep."""
    base: str
    folder: str
    config: str
    outbox: str


def _files(product: Product) -> _Files:
    """The paths of this user; all empty when the user has no home folder, or one that isn't an absolute path."""
    base = os.path.expanduser("~")
    folder = os.path.expanduser(product.directory)
    if not os.path.isabs(folder):
        folder = os.path.join(base, folder)
    elif not folder.startswith(base + os.sep):
        base = os.path.dirname(folder)
    if not os.path.isabs(folder):
        return _Files("", "", "", "")
    return _Files(base, folder, os.path.join(folder, "config.json"), os.path.join(folder, "outbox"))


class _Config(NamedTuple):
    """What the config file says. `problem` is empty, "missing", or why the file can't be used."""
    problem: str
    enabled: bool = False
    client_id: str = ""
    endpoint: str = ""
    tracking_id: str = ""
    api_secret: str = ""
    notice_shown: bool = False


_MISSING = _Config("missing")


def _read_small(path: str, limit: int = _MAX_FILE) -> bytes:
    """The bytes of a regular file. Raises OSError; ValueError for a folder, pipe or device, or over `limit` bytes."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    fd = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe must not wait for its writer
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is not a regular file")
        data = chunk = os.read(fd, limit + 1)
        while chunk and len(data) <= limit:
            chunk = os.read(fd, limit + 1 - len(data))
            data += chunk
    finally:
        os.close(fd)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _parse_object(data: bytes) -> Dict[str, Any]:
    """The JSON object in these bytes. Raises ValueError for anything else."""
    try:
        document = _DECODER.decode(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    return document


def _is_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and set("".join(parts)) <= set("0123456789abcdefABCDEF")


def _interpreted(document: Dict[str, Any]) -> _Config:
    """The parts of a config file that we use. Raises ValueError when one of them has the wrong type."""
    section = document.get("telemetry", {})
    if not isinstance(section, dict):
        raise ValueError("telemetry is not an object")
    texts = {key: section.get(key, "") for key in ("anonymousId", "endpoint", "trackingId", "apiSecret")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"telemetry.{key} is not a text")
    if texts["anonymousId"] and not _is_uuid(texts["anonymousId"]):
        raise ValueError("telemetry.anonymousId is not a UUID")
    notice = document.get("hasShownTelemetryNotice", False)
    if not isinstance(notice, bool):
        raise ValueError("hasShownTelemetryNotice is not true or false")
    return _Config("", section.get("enabled") is True, texts["anonymousId"], texts["endpoint"].strip(),
                   texts["trackingId"].strip(), texts["apiSecret"].strip(), notice)


def _read_config(path: str) -> _Config:
    """What the config file says; never raises, never writes."""
    try:
        return _interpreted(_parse_object(_patiently(partial(_read_small, path))))
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING
    except OSError as error:
        return _Config(f"it can't be read: {error.strerror or 'unknown reason'}")
    except ValueError as error:
        return _Config(str(error))


_T = TypeVar("_T")


def _patiently(call: Callable[[], _T]) -> _T:
    """The call's result. Windows refuses to open or replace a file that another process has open: for 100 ms at most
    we ask again there, and only there."""
    for _ in range(10 if os.name == "nt" else 0):
        try:
            return call()
        except PermissionError:
            time.sleep(0.01)
    return call()


def _unique() -> str:
    """A name that no other process has."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def _write_new(path: str, data: bytes, durable: bool = False) -> None:
    """Make a file that must not exist yet, readable by its user only. Raises OSError and leaves nothing then."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        try:
            while data:
                data = data[os.write(fd, data):]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        _unlink(path)
        raise


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _make_folder(files: _Files) -> None:
    """Make the product's folder, for its user only. Raises OSError, also when there is no home folder to put it in."""
    if not os.path.isdir(files.base):
        raise FileNotFoundError(errno.ENOENT, "there is no home folder", files.base)
    os.makedirs(files.folder, 0o700, exist_ok=True)


def _remove_stale(path: str) -> None:
    """Remove what killed processes left beside a file: temporary files older than 10 s."""
    folder, name = os.path.split(path)
    for entry in os.listdir(folder):
        if entry.startswith(name + ".") and entry.endswith(".tmp"):
            leftover = os.path.join(folder, entry)
            if abs(time.time() - os.stat(leftover).st_mtime) > _STALE_SECONDS:
                _unlink(leftover)


@contextmanager
def _locked(path: str, wait: float) -> Iterator[None]:
    """Hold `<path>.lock`. Raises TimeoutError when another process keeps it for `wait` seconds, OSError if it can't be
    made. A lock that was broken as stale while we slept is noticed by `_update_config`'s comparison, not here."""
    lock, token = path + ".lock", _unique().encode()
    deadline = time.monotonic() + wait
    while True:
        try:
            _write_new(lock, token)
            break
        except FileExistsError:
            if _break_stale(lock):
                continue
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.EAGAIN, "another process is changing it", path) from None
            time.sleep(0.01)
    try:
        yield
    finally:
        try:
            if _read_small(lock) == token:
                os.unlink(lock)
        except (OSError, ValueError):
            pass  # broken by another process: it is not ours any more


def _break_stale(lock: str) -> bool:
    """Remove a lock whose process is gone; True if it did. Renaming first lets one of several breakers win."""
    aside = f"{lock}.{_unique()}.tmp"
    try:
        if abs(time.time() - os.stat(lock).st_mtime) <= _STALE_SECONDS:
            return False
        os.rename(lock, aside)
        os.unlink(aside)
    except OSError:
        return False
    return True


def _now_text(seconds: Optional[float] = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _dumped(document: Dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def _new_document(product: Product, enabled: bool) -> Dict[str, Any]:
    return {"version": _DEFAULT_VERSION,
            "telemetry": {"enabled": enabled, "anonymousId": _new_id(),
                          "endpoint": product.endpoint, "trackingId": product.tracking_id},
            "hasShownTelemetryNotice": False,
            "lastUpdated": _now_text()}


def _new_id() -> str:
    import uuid  # used once in the life of a config file
    return str(uuid.uuid4())


def _create_config(files: _Files, document: Dict[str, Any], durable: bool = False) -> bool:
    """Create the config file unless it exists: of many processes one wins, True for that one. Raises OSError."""
    _make_folder(files)
    path = os.path.realpath(files.config)
    _remove_stale(path)
    temporary = f"{path}.{_unique()}.tmp"
    _write_new(temporary, _dumped(document), durable)
    try:
        os.link(temporary, path)  # complete and exclusive in one step
        return True
    except FileExistsError:
        return False
    except (OSError, AttributeError, NotImplementedError):  # a file system without hard links
        with _locked(path, 0.5):
            if os.path.lexists(path):
                return False
            os.replace(temporary, path)
            return True
    finally:
        _unlink(temporary)
        if durable:
            _sync_folder(path)


def _sync_folder(path: str) -> None:
    """Make a rename in the folder of this file survive a power cut, where the system can."""
    try:
        fd = os.open(os.path.dirname(path), os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def _update_config(path: str, change: Callable[[Dict[str, Any]], bool], wait: float = 0.0) -> None:
    """Read, change and replace the config file under its lock. `change` edits the document and returns False to leave
    the file alone. With `wait` (the user asked for it) the change is made durable. Raises OSError, ValueError."""
    path, durable = os.path.realpath(path), wait > 0
    with _locked(path, wait):
        _remove_stale(path)
        for _ in range(10 if durable else 1):
            before = _read_small(path)
            document = _parse_object(before)
            if not change(document):
                return
            document["lastUpdated"] = _now_text()
            temporary = f"{path}.{_unique()}.tmp"
            _write_new(temporary, _dumped(document), durable)
            try:
                # Writers that know no lock (another program, a process that slept through its own) are not undone.
                if _read_small(path) == before:
                    _patiently(partial(os.replace, temporary, path))
                    if durable:
                        _sync_folder(path)
                    return
            finally:
                _unlink(temporary)
        raise OSError(errno.EBUSY, "another program keeps changing it", path)


# === Consent: may we send, and who decided? ===

_NO_WORDS = frozenset(("", "0", "false", "no", "off"))
ON_BY_DEFAULT = "on by default"


def _is_set(environ: Mapping[str, str], variable: str) -> bool:
    """Whether a yes-or-no variable says yes: set to anything but a word for no. Undecodable bytes count as set."""
    value = environ.get(variable)
    return value is not None and value.strip().lower() not in _NO_WORDS


def _environment_refusal(product: Product, environ: Mapping[str, str]) -> str:
    """The variable that switches telemetry off, or an empty text."""
    for variable in ("DO_NOT_TRACK", product.env_prefix + "_DISABLED"):
        if _is_set(environ, variable):
            return variable
    return ""


def _project_refuses(section: object) -> bool:
    """A project may only say no: `enabled` present and not `true`, or the section itself `false`."""
    if isinstance(section, Mapping):
        return "enabled" in section and section["enabled"] is not True
    return section is False


def _refusal(environment: str, project: Callable[[], object], config: Callable[[], _Config], files: _Files) -> str:
    """Who says no first, in the order environment, project, config file, no place for one; empty if nobody does.
    `project` and `config` are only asked when those before them did not refuse."""
    if environment:
        return environment
    if _project_refuses(project()):
        return "project"
    remembered = config()
    if remembered is not _MISSING:
        return "" if remembered.enabled else files.config
    return "" if _can_create(files) else f"no place for {files.config or 'a config file'}"


def _can_create(files: _Files) -> bool:
    """Whether the config file could be made, as far as can be told without writing."""
    place = files.folder if os.path.lexists(files.folder) else files.base
    return bool(place) and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def _project_section(product: Product, given: object) -> object:
    """The `telemetry` section the host passed, or that of the project file here; None if there is no such file."""
    if given is not None or not product.project_file:
        return given
    try:
        return _parse_object(_read_small(product.project_file, _MAX_PROJECT_FILE)).get("telemetry")
    except (OSError, ValueError):
        return None  # one that can't be read is no answer


# === Context: where are we running? ===

# A variable that a continuous integration service sets, and the service. The first nine are the documented ones;
# most others set CI as well. Names as in https://github.com/watson/ci-info/blob/master/vendors.json
CI_VARIABLES = (
    ("GITHUB_ACTIONS", "GitHub Actions"), ("GITLAB_CI", "GitLab CI"), ("CIRCLECI", "CircleCI"),
    ("TRAVIS", "Travis CI"), ("JENKINS_URL", "Jenkins"), ("BITBUCKET_BUILD_NUMBER", "Bitbucket Pipelines"),
    ("CODEBUILD_BUILD_ID", "AWS CodeBuild"), ("TEAMCITY_VERSION", "TeamCity"), ("BUILDKITE", "Buildkite"),
    ("CI", "any that says so"), ("CONTINUOUS_INTEGRATION", "any that says so"),
    ("TF_BUILD", "Azure Pipelines"), ("APPVEYOR", "AppVeyor"), ("bamboo_planKey", "Bamboo"),
    ("BITRISE_IO", "Bitrise"), ("BUDDY_WORKSPACE_ID", "Buddy"), ("CF_BUILD_ID", "Codefresh"),
    ("CIRRUS_CI", "Cirrus CI"), ("DRONE", "Drone"), ("GO_PIPELINE_LABEL", "GoCD"), ("HARNESS_BUILD_ID", "Harness"),
    ("HEROKU_TEST_RUN_ID", "Heroku CI"), ("HUDSON_URL", "Hudson"), ("JENKINS_HOME", "Jenkins"),
    ("NETLIFY", "Netlify"), ("PROW_JOB_ID", "Prow"), ("SCREWDRIVER", "Screwdriver"), ("SEMAPHORE", "Semaphore"),
    ("TASKCLUSTER_ROOT_URL", "Taskcluster"), ("VELA", "Vela"), ("WOODPECKER_CI", "Woodpecker"),
    ("XCS", "Xcode Server"),
)
_PROCESS_START = int(time.time())  # seconds; GA4's session id
_PYTHON_VERSION = "%d.%d.%d" % sys.version_info[:3]


def is_ci(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a continuous integration service runs us, by the variables it sets. `CI=false` is not CI."""
    return any(_is_set(environ, variable) for variable, _ in CI_VARIABLES)


def input_source(value: object) -> str:
    """Where an input lies: "remote_url", "local_relative" or "local_absolute". Never raises, touches no file.

    Windows drives and UNC paths are absolute on every system, and so are `file:` URLs and `~`.
    """
    try:
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
    except Exception:  # the host's own object: whatever it raises, there is no path in it
        text = ""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    text = text.strip() if isinstance(text, str) else ""
    scheme, colon, rest = text.partition(":")
    if colon and len(scheme) > 1 and rest.startswith("/") and _LETTERS | _DIGITS | set("+.-") >= set(scheme):
        return "local_absolute" if scheme.lower() == "file" else "remote_url"
    if text.startswith(("/", "\\", "~")) or (colon and len(scheme) == 1 and scheme in _LETTERS):
        return "local_absolute"
    return "local_relative"


# The category of an exception by the name of its class or of a base class: none of them has to be imported for that.
_ERROR_NAMES = MappingProxyType({
    "KeyboardInterrupt": "interrupted", "CancelledError": "interrupted", "Abort": "interrupted",
    "PermissionError": "permission_error",
    "FileNotFoundError": "file_not_found", "NotADirectoryError": "file_not_found",
    "ConnectionError": "network_error", "TimeoutError": "network_error", "timeout": "network_error",
    "gaierror": "network_error", "herror": "network_error", "URLError": "network_error",
    "SSLError": "network_error", "HTTPException": "network_error", "RequestException": "network_error",
    "HTTPError": "network_error", "TransportError": "network_error",
    "JSONDecodeError": "parse_error", "TOMLDecodeError": "parse_error", "SyntaxError": "parse_error",
    "UnicodeError": "parse_error", "YAMLError": "parse_error", "ParseError": "parse_error",
    "ParserError": "parse_error", "ExpatError": "parse_error", "BadZipFile": "parse_error",
    "ConfigError": "configuration_error", "ConfigurationError": "configuration_error",
    "ValidationError": "validation_error", "SchemaError": "validation_error", "UsageError": "validation_error",
    "ArgumentError": "validation_error", "ArgumentTypeError": "validation_error", "ValueError": "validation_error",
})


def error_type(exc: object) -> str:
    """The category of an exception (one of `ERROR_TYPES`), from its type and never from its message. Never raises."""
    kind = exc if isinstance(exc, type) else type(exc)
    for base in type.mro(kind) if kind is not type else ():
        if base.__module__ == "configparser":
            return "configuration_error"
        if base.__name__ in _ERROR_NAMES:
            return _ERROR_NAMES[base.__name__]
    return "unknown_error"


# === Events: what may leave? ===

Value = Union[bool, int, float, str]
_MAX_NUMBER = 10 ** 9
_MAX_ITEMS = 100  # of a list or mapping that we look at: it may be endless
_WORD_LETTERS = _LETTERS | _DIGITS | {"-", "_"}
_MAX_WORD, _MAX_WORD_DIGITS = 32, 3  # too short for a path or a sentence, too few digits for an identifier


def _plain(value: object) -> str:
    """The characters of a text as an exact `str`; empty for anything else."""
    return str.__str__(value) if issubclass(type(value), str) else ""


def _word(value: object) -> str:
    text = _plain(value)
    if (0 < len(text) <= _MAX_WORD and text[0] in _LETTERS and text[0].islower() and _WORD_LETTERS >= set(text)
            and sum(letter in _DIGITS for letter in text) <= _MAX_WORD_DIGITS):
        return text
    return "other"


def _words(value: object) -> str:
    """Words joined by commas, in their order and once each; cut to GA4's 100 characters at a comma."""
    if value is None:
        return "none"
    single = issubclass(type(value), (str, bytes)) or not isinstance(value, Iterable)
    items = [value] if single else islice(value, _MAX_ITEMS)  # type: ignore[call-overload]
    found = dict.fromkeys(_word(_plain(item)[:1000].lstrip("-").partition("=")[0]) for item in items)
    text = ",".join(found) or "none"
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT + 1].rpartition(",")[0]


def _number(value: object) -> Optional[Union[int, float]]:
    """The number if it is finite, from 0 to 10^9 and no bool."""
    if not issubclass(type(value), (int, float)) or isinstance(value, bool):
        return None
    number = float.__float__(value) if isinstance(value, float) else int.__int__(value)  # type: ignore[arg-type]
    return number if 0 <= number <= _MAX_NUMBER else None  # false for NaN and the infinities too


def _options(name: str, value: object, declared: Mapping[str, Tuple[str, ...]]) -> Dict[str, Value]:
    """One parameter for each option: `<name>_<option>`. Nested values and names that aren't words are left out."""
    flat: Dict[str, Value] = {}
    if not isinstance(value, Mapping):
        return flat
    for option, held in islice(value.items(), _MAX_ITEMS):
        flat_name = f"{name}_{_plain(option).replace('-', '_')}"
        if _word(option) != _plain(option) or _name_problem(flat_name, _NUMBER_PARAMS | _TEXT_PARAMS):
            continue
        text, number = _plain(held), _number(held)
        if isinstance(held, bool) or number is not None:
            flat[flat_name] = held if isinstance(held, bool) else number or 0
        elif issubclass(type(held), str):
            flat[flat_name] = text if text in declared.get(_plain(option), ()) else "custom"
    return flat


def _shaped(name: str, kind: Kind, value: object) -> Dict[str, Value]:
    """The parameters that may leave for one that was passed; none if it has to be dropped."""
    if isinstance(kind, Mapping):
        return _options(name, value, kind)
    if isinstance(kind, tuple):
        return {name: _plain(value) if _plain(value) in kind else "other"}
    if kind == "flag":
        return {name: value} if isinstance(value, bool) else {}
    if kind in ("count", "milliseconds"):
        number = _number(value)
        return {} if number is None else {name: round(number)}
    return {name: _words(value) if kind == "words" else _word(value)}


def _checked(declared: Mapping[str, Kind], params: Mapping[str, object]) -> Tuple[Dict[str, Value], List[str]]:
    """What may leave of these parameters, and the names of those dropped."""
    kept: Dict[str, Value] = {}
    dropped = [name for name in params if name not in declared]
    for name, kind in declared.items():
        if name in params:
            try:
                shaped = _shaped(name, kind, params[name])
            except Exception:  # the host's own object raised while we looked into it: it could be anything
                shaped = {}
            if not shaped:
                dropped.append(name)
            for flat_name, value in islice(shaped.items(), 1 + _MAX_PARAMS - len(_COMMON_PARAMS) - len(declared)):
                kept.setdefault(flat_name, value)
    return kept, dropped


def _event(name: str, params: Dict[str, Value], declared: Mapping[str, Kind], version: str, ci: bool,
           stamp: int) -> Dict[str, Any]:
    """The event as GA4 takes it. `stamp` is the moment of recording in microseconds since 1970."""
    spent = [params[key] for key, kind in declared.items() if kind == "milliseconds" and key in params]
    return {"name": name, "timestamp_micros": stamp, "params": {
        **params, "cli_version": version, "python_version": _PYTHON_VERSION, "os": sys.platform, "ci": ci,
        "session_id": _PROCESS_START, "engagement_time_msec": max(1, int(spent[0])) if spent else 1}}


def _clean_version(version: object) -> str:
    """A version of letters, digits and `.+-_!`, at most 64 long; "unknown" for anything else."""
    text = _plain(version)
    return text if 0 < len(text) <= 64 and _WORD_LETTERS | set(".+!") >= set(text) else "unknown"


# === Wire: what does it look like outside? ===

class _Destination(NamedTuple):
    """Where events go. `problem` is empty or says why there is no destination; `source` is who named it."""
    source: str
    endpoint: str = ""
    measurement_id: str = ""
    api_secret: str = ""
    problem: str = ""

    @property
    def key(self) -> str:
        """Eight hexadecimal digits that stand for endpoint and measurement id in the names of files."""
        from zlib import crc32  # an extension module; most runs of a tool whose telemetry is off need none
        return "%08x" % crc32(f"{self.endpoint}\n{self.measurement_id}".encode())


def _url_problem(url: str) -> str:
    """Why this can't be an endpoint; empty if it can. By hand: `urllib.parse` would cost each run its loading."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in ("http", "https") or not rest:
        return "it is not an http:// or https:// URL"
    if not url.isascii() or not url.isprintable() or {" ", '"', "\\", "<", ">"} & set(url):
        return "it has characters that a URL must have percent-encoded"
    authority = rest.replace("?", "/").replace("#", "/").partition("/")[0]
    if "@" in authority:
        return "it has a user name in it, which is not supported"
    host, bracket, port = authority.rpartition("]") if "]" in authority else authority.partition(":")
    port = port[1:] if bracket == "]" and port.startswith(":") else port
    if not host.strip("[") or (port and not (set(port) <= _DIGITS and len(port) <= 5 and int(port) < 65536)):
        return "its host or port is missing or malformed"
    return ""


def _destination(product: Product, environ: Mapping[str, str], config: _Config) -> _Destination:
    """The first that is set of environment, config file and product; an ID and a secret stay with their endpoint."""
    endpoint, tracking_id, secret = (environ.get(f"{product.env_prefix}_{name}", "").strip()
                                     for name in ("ENDPOINT", "ID", "API_SECRET"))
    own_id = config.tracking_id in ("", product.tracking_id, _CODEGEN_FIELDS["tracking_id"])
    if endpoint:
        found = _Destination("environment", endpoint, tracking_id, secret)
    elif config.endpoint and not (config.endpoint == product.endpoint and own_id):
        found = _Destination("config file", config.endpoint, config.tracking_id, config.api_secret)
    else:  # the config file holds a copy of the product's endpoint and ID; a secret beside it belongs to them
        secret = product.api_secret or (config.api_secret if config.tracking_id == product.tracking_id else "")
        found = _Destination("product", product.endpoint, product.tracking_id, secret)
        if found.measurement_id in ("", _CODEGEN_FIELDS["tracking_id"]) or not secret:
            return found._replace(problem=f"{product.command} has no measurement ID and secret of its own")
    problem = _url_problem(found.endpoint)
    return found._replace(problem=f"the endpoint from the {found.source} can't be used: {problem}") if problem else found


def _masked(url: str) -> str:
    """The URL without its fragment and with the value of any `api_secret` as `***`."""
    base, mark, query = url.partition("#")[0].partition("?")
    return base + mark + "&".join("api_secret=***" if part.lower().startswith("api_secret=") else part
                                  for part in query.split("&"))


class _Request(NamedTuple):
    """One POST."""
    url: str
    headers: Dict[str, str]
    body: bytes


def _request(destination: _Destination, client_id: str, events: List[Dict[str, Any]], user_agent: str) -> _Request:
    """The request that delivers these events, at most 25 of them."""
    from urllib.parse import quote  # only where something is about to be sent or shown
    base, mark, query = destination.endpoint.partition("#")[0].partition("?")
    parts = [part for part in query.split("&") if part]
    for name, value in (("measurement_id", destination.measurement_id), ("api_secret", destination.api_secret)):
        if value:
            parts.append(f"{name}={quote(value, safe='')}")
    body = json.dumps({"client_id": client_id, "events": events}, allow_nan=False).encode("ascii")
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "User-Agent": user_agent}
    return _Request(base + ("?" if parts else mark) + "&".join(parts), headers, body)


def _user_agent(product: Product, version: str) -> str:
    return "".join(c if c in _WORD_LETTERS | {"."} else "-" for c in product.command) + "/" + version


# === Outbox: what waits? ===

_MAX_WAITING = 500
_MAX_AGE = 72 * 3600.0     # seconds; GA4 takes no older events
_MAX_BATCH = 25            # GA4's limit of events a request
_MAX_EVENT = 5000          # bytes; 25 of them stay below GA4's 130 kB
_FIRST_PAUSE, _LAST_PAUSE = 600.0, 86400.0  # seconds without a try after a failure


class _Claim(NamedTuple):
    """Events that this process alone may send: their files, moved into a folder of ours."""
    folder: str
    events: Dict[str, Dict[str, Any]]  # by file name


def _stem(micros: int, client_id: str, key: str) -> str:
    """The name of an event's file, without its ending. Sorting names sorts by time."""
    return f"{micros:016d}-{client_id[:8]}-{key}-{os.urandom(4).hex()}"


def _event_stamp(name: str) -> float:
    """The moment of recording in seconds that an event's file name tells; -1 if it is no such name."""
    stem, dot, ending = name.partition(".")
    parts = stem.split("-")
    if ending not in ("json", "tmp") or [len(part) for part in parts] != [16, 8, 8, 8] or not set(parts[0]) <= _DIGITS:
        return -1.0
    return int(parts[0]) / 1e6


class _Outbox:
    """Events that wait on disk, shared by every process of a user; renaming a file is the only lock.

    | name | what it is |
    | --- | --- |
    | `<microseconds>-<client>-<destination>-<random>.json` | an event that waits |
    | the same with `.tmp` | an event being written |
    | `<milliseconds>-<process>.claim/` | events being sent; given back when older than 10 s |
    | `<milliseconds>-<process>.sent/` | delivered events being deleted |
    | `<destination>.pause` | when a destination failed, and how often |
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known: Deque[str] = Deque()  # names of waiting events, oldest first: those that were there once

    def path(self, *names: str) -> str:
        return os.path.join(self._folder, *names)

    def _list(self, folder: str = "") -> List[str]:
        try:
            return sorted(os.listdir(self.path(folder)))
        except OSError:
            return []

    def waiting(self, client_id: str, key: str = "") -> List[str]:
        """Names of the events that wait, of this client and destination (of any, without `key`); oldest first."""
        return [name for name in self._list() if name.endswith(".json") and _event_stamp(name) >= 0
                and name[17:25] == client_id[:8] and key in ("", name[26:34])]

    def put(self, destination: _Destination, client_id: str, event: Dict[str, Any]) -> str:
        """Write an event, complete or not at all, and return its name. Raises OSError, ValueError."""
        record = {"endpoint": destination.endpoint, "measurement_id": destination.measurement_id,
                  "client_id": client_id, "event": event}
        data = json.dumps(record, allow_nan=False).encode("ascii")
        stem = _stem(event["timestamp_micros"], client_id, destination.key)
        temporary = self.path(stem + ".tmp")
        try:
            _write_new(temporary, data)
        except FileNotFoundError:
            os.mkdir(self._folder, 0o700) if not os.path.isdir(self._folder) else None
            _write_new(temporary, data)
        try:
            os.rename(temporary, self.path(stem + ".json"))
        except OSError:
            _unlink(temporary)
            raise
        self._bound(stem + ".json")
        return stem + ".json"

    def _bound(self, name: str) -> None:
        """Delete the oldest events beyond 500. The list in memory spares most calls a look into the folder."""
        self._known.append(name)
        if len(self._known) % 50 == 1 or len(self._known) > _MAX_WAITING:
            self._known = Deque(entry for entry in self._list() if entry.endswith(".json"))
        while len(self._known) > _MAX_WAITING:
            _unlink(self.path(self._known.popleft()))

    def tidy(self, client_id: str) -> None:
        """Give back the claims of processes that are gone; delete what is delivered, too old or of another client."""
        now = time.time()
        for name in self._list():
            stem, _, ending = name.rpartition(".")
            stamp = _event_stamp(name)
            if stamp >= 0:
                limit = _STALE_SECONDS if ending == "tmp" else _MAX_AGE
                if abs(now - stamp) > limit or (ending == "json" and name[17:25] != client_id[:8]):
                    _unlink(self.path(name))
            elif ending == "sent":
                self._delete(name)
            elif ending == "claim" and stem.partition("-")[0].isdigit():
                if abs(now - int(stem.partition("-")[0]) / 1000) > _STALE_SECONDS:
                    self.give_back(self._renamed(name))
            elif ending == "pause" and now > self._pause(stem)[0] + _MAX_AGE:
                _unlink(self.path(name))

    def _renamed(self, claim: str) -> str:
        """The claim under a fresh name of ours; an empty text if it is someone else's by now."""
        fresh = f"{int(time.time() * 1000)}-{_unique()}.claim"
        try:
            os.rename(self.path(claim), self.path(fresh))
        except OSError:
            return ""
        return fresh

    def claim(self, destination: _Destination, client_id: str, first: Iterable[str]) -> Optional[_Claim]:
        """Take up to 25 waiting events, those named `first` before all others; None if there are none."""
        self.tidy(client_id)
        names = self.waiting(client_id, destination.key)
        present = set(names)
        if not names:
            return None
        claim = _Claim(f"{int(time.time() * 1000)}-{_unique()}.claim", {})
        os.mkdir(self.path(claim.folder), 0o700)
        for name in dict.fromkeys([name for name in first if name in present] + names):
            if len(claim.events) == _MAX_BATCH:
                break
            try:
                os.rename(self.path(name), self.path(claim.folder, name))
            except OSError:
                continue  # another process was faster
            event = self._load(self.path(claim.folder, name), destination, client_id)
            if event is None:
                _unlink(self.path(claim.folder, name))
            else:
                claim.events[name] = event
        if not claim.events:
            os.rmdir(self.path(claim.folder))
            return None
        return claim

    def _load(self, path: str, destination: _Destination, client_id: str) -> Optional[Dict[str, Any]]:
        """The event in a file of ours; None if the file is damaged or was recorded for another destination."""
        try:
            record = _parse_object(_read_small(path))
        except (OSError, ValueError):
            return None
        event = record.get("event")
        bound_to = (record.get("endpoint"), record.get("measurement_id"), record.get("client_id"))
        if bound_to != (destination.endpoint, destination.measurement_id, client_id) or not isinstance(event, dict):
            return None
        return event if len(json.dumps(event)) <= _MAX_EVENT else None

    def confirm(self, claim: _Claim) -> Optional[_Claim]:
        """The claim, made fresh; None if another process took it over, because ours slept."""
        folder = self._renamed(claim.folder)
        return claim._replace(folder=folder) if folder else None

    def give_back(self, folder: str) -> None:
        """Let the events of a claim wait again."""
        for name in self._list(folder) if folder else ():
            try:
                os.rename(self.path(folder, name), self.path(name))
            except OSError:
                pass
        self._rmdir(folder)

    def finish(self, folder: str) -> None:
        """Delete a claim's events, all or none: a process killed half way must not leave some to be sent again."""
        done = folder.rpartition(".")[0] + ".sent"
        try:
            os.rename(self.path(folder), self.path(done))
        except OSError:
            done = folder
        self._delete(done)

    def _delete(self, folder: str) -> None:
        for name in self._list(folder):
            _unlink(self.path(folder, name))
        self._rmdir(folder)

    def _rmdir(self, folder: str) -> None:
        try:
            if folder:
                os.rmdir(self.path(folder))
        except OSError:
            pass

    def is_here(self, name: str) -> bool:
        """Whether this event still waits or is being sent by some process."""
        return os.path.lexists(self.path(name)) or any(
            os.path.lexists(self.path(claim, name)) for claim in self._list() if claim.endswith(".claim"))

    def _pause(self, key: str) -> Tuple[float, int]:
        """Until when (seconds since 1970) nothing may be tried, and after how many failures; zeros for no pause."""
        try:
            record = _parse_object(_read_small(self.path(key + ".pause")))
            since, seconds, failures = record["since"], record["seconds"], record["failures"]
        except (OSError, ValueError, KeyError):
            return 0.0, 0
        if not all(isinstance(part, (int, float)) for part in (since, seconds, failures)) or since > time.time() + 1:
            return 0.0, 0  # not ours, or the clock was set back since: better one try than a pause for years
        return since + min(seconds, _LAST_PAUSE), int(failures)

    def paused_until(self, key: str) -> float:
        """Until when (seconds since 1970) this destination is left alone; 0 if it isn't."""
        until = self._pause(key)[0]
        return until if until > time.time() else 0.0

    def pause(self, destination: _Destination, asked: Optional[float]) -> bool:
        """Begin a pause of 10 minutes, doubled with each failure in a row, or of `asked` seconds. False: can't write."""
        failures = self._pause(destination.key)[1]
        if asked is None and self.paused_until(destination.key):
            return True  # another process failed with us: that is one failure, not two
        seconds = min(_FIRST_PAUSE * 2 ** min(failures, 8), _LAST_PAUSE) if asked is None else asked
        record = {"endpoint": _masked(destination.endpoint), "since": time.time(), "seconds": seconds,
                  "failures": failures + 1}
        temporary = self.path(_stem(time.time_ns() // 1000, "0" * 8, destination.key) + ".tmp")
        try:
            _write_new(temporary, _dumped(record))
            _patiently(partial(os.replace, temporary, self.path(destination.key + ".pause")))
        except OSError:
            _unlink(temporary)
            return False
        return True

    def resume(self, key: str = "") -> None:
        """Forget the pause of this destination, or of all."""
        for name in [key + ".pause"] if key else self._list():
            if name.endswith(".pause"):
                _unlink(self.path(name))

    def delete(self) -> None:
        """Delete everything. Raises OSError if something stays."""
        for tries in (2, 1, 0):  # another process may be writing into it just now
            for name in self._list():
                _unlink(self.path(name))
                self._delete(name)
            try:
                return os.rmdir(self._folder)
            except FileNotFoundError:
                return None
            except OSError:
                if not tries:
                    raise


# === Sender: how does it leave? ===

_REQUEST_SECONDS = 1.0
_KEPT_4XX = frozenset((407, 408, 425, 429))  # the proxy's or the moment's fault, not the events'


class _Answer(NamedTuple):
    """What came of a request. `status` 0 means no answer; `retry_after` is the header's text."""
    status: int
    retry_after: str = ""


_NO_ANSWER = _Answer(0)


class _Flight(NamedTuple):
    """A request under way. `deadline` is on the monotonic clock."""
    claim: _Claim
    destination: _Destination
    deadline: float


class _Ticket(NamedTuple):
    """What may be sent now, and where."""
    destination: _Destination
    client_id: str


def _load_network() -> None:
    """Import the network code. A fork in the middle of an import would leave the import's lock held for ever in the
    child, so a fork waits for us (once in a process, some 50 ms)."""
    if "urllib.request" not in sys.modules and hasattr(os, "register_at_fork"):
        loaded = threading.Event()
        os.register_at_fork(before=partial(loaded.wait, 1.0))
        try:
            import urllib.request
        finally:
            loaded.set()
    import urllib.request  # noqa: F401


def _opener(endpoint: str) -> OpenerDirector:
    """An opener of our own: proxies from the environment alone (asking macOS for its settings may crash a forked
    child), certificates verified, no redirects, no errors raised for a status."""
    import ssl
    from urllib.request import (HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, getproxies_environment)
    proxies = {scheme: url for scheme, url in getproxies_environment().items() if scheme in ("http", "https") and url}
    opener = OpenerDirector()
    opener.add_handler(ProxyHandler(proxies))
    opener.add_handler(HTTPHandler())
    if endpoint.lower().startswith("https"):
        opener.add_handler(HTTPSHandler(context=ssl.create_default_context()))
    return opener


def _post(opener: OpenerDirector, request: _Request) -> _Answer:
    """Send one request. The time limit holds for each socket operation only: the caller bounds the whole."""
    from http.client import HTTPException
    from urllib.request import Request
    try:
        response = opener.open(Request(request.url, request.body, request.headers, method="POST"), None,
                               _REQUEST_SECONDS)
    except (OSError, HTTPException, ValueError):
        return _NO_ANSWER
    if response is None:
        return _NO_ANSWER  # a proxy of a kind that urllib does not speak
    with response:
        return _Answer(response.status, response.headers.get("Retry-After") or "")


def _retry_seconds(text: str) -> Optional[float]:
    """The wait that a Retry-After header asks for, from 1 second to 24 hours; None if it asks nothing we understand."""
    if not text:
        return None
    from email.utils import parsedate_to_datetime  # loaded with the network code
    try:
        seconds = float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(seconds, 1.0), _LAST_PAUSE)


class _Sender:
    """Sends the waiting events of one process from daemon threads, which end when nothing is left to send.

    One thread posts; the other watches the clock, because a name look-up, a TLS handshake or a server that drips
    can't be interrupted: a request that overruns is counted as failed and left behind on its thread. Both are started
    by the caller's thread: since Python 3.12 none can be started once the main thread has ended.
    """

    def __init__(self, outbox: _Outbox, ticket: Callable[[], Optional[_Ticket]],
                 build: Callable[[_Ticket, List[Dict[str, Any]]], _Request], swallowed: Callable[[Exception], None],
                 ) -> None:
        self.outbox = outbox
        self._ticket, self._build, self._swallowed = ticket, build, swallowed
        self._changed = threading.Condition()
        self._run: Optional[object] = None          # stands for the two threads; None: there are none, or left behind
        self._flight: Optional[_Flight] = None
        self._again = False                         # more was recorded since the poster looked
        self._leaving = False
        self._own: Dict[str, None] = {}             # recorded by this object, not known to be delivered; oldest first
        self._elsewhere: Dict[str, None] = {}       # those of them that another process has claimed
        self._lost = False                          # one of them was refused or thrown away
        self._quiet_until = 0.0                     # monotonic; only used when a pause can't be written to disk

    def add(self, name: str) -> None:
        """Remember an event as one of this run."""
        with self._changed:
            self._own[name] = None
            while len(self._own) > _MAX_WAITING:
                del self._own[next(iter(self._own))]
                self._lost = True

    def wake(self) -> None:
        """See to it that what waits is sent. Without a thread to be had it stays for the next run."""
        with self._changed:
            self._again = True
            if self._run is None and not self._leaving and time.monotonic() >= self._quiet_until:
                self._run = run = object()
                try:
                    for work in (self._watch, self._send):
                        threading.Thread(target=work, args=(run,), name="telemetry", daemon=True).start()
                except RuntimeError:
                    self._end(run)

    def _end(self, run: object) -> None:
        with self._changed:
            if self._run is run:
                self._run = None
            self._changed.notify_all()

    def _send(self, run: object) -> None:
        """The posting thread."""
        try:
            _load_network()
            while self._next(run):
                pass
        except Exception as error:  # broad on purpose: nothing of ours may show up in the host's output
            self._swallowed(error)
        with self._changed:
            if self._run is run and self._flight:
                self._settle(self._flight, _NO_ANSWER)
        self._end(run)

    def _next(self, run: object) -> bool:
        """Send one request; False if there is nothing (more) to send."""
        ticket = self._ticket()  # consent and destination, looked at afresh
        opener = _opener(ticket.destination.endpoint) if ticket else None
        flight = self._take(run, ticket)
        if ticket is None or opener is None or flight is None:
            return self._resumed(run)
        request = self._build(ticket, list(flight.claim.events.values()))
        if not self._is_confirmed(flight, ticket):
            return True
        return self._settle(flight, _post(opener, request))

    def _resumed(self, run: object) -> bool:
        """End this run unless something was recorded since; one step, so that no event falls between."""
        with self._changed:
            again = self._again and self._run is run and not self._leaving
            if not again:
                self._end(run)
            return again

    def _take(self, run: object, ticket: Optional[_Ticket]) -> Optional[_Flight]:
        """Claim what is to be sent next. In one step with being told to leave: no claim is left behind."""
        with self._changed:
            self._again = False
            if ticket is None or self._run is not run or (self._leaving and not self._own):
                return None
            own = list(self._own)
            claim = self.outbox.claim(ticket.destination, ticket.client_id, own)
            here = set(claim.events) if claim else set()
            for name in own[:len(own) if len(here) < _MAX_BATCH else 0]:
                if name not in here:  # another process claimed it
                    del self._own[name]
                    self._elsewhere[name] = None
            if claim is None:
                return None
            self._flight = _Flight(claim, ticket.destination, time.monotonic() + _REQUEST_SECONDS)
            self._changed.notify_all()
            return self._flight

    def _is_confirmed(self, flight: _Flight, ticket: _Ticket) -> bool:
        """The last look before the request: is this still allowed, and are the events still ours? If not, they wait."""
        allowed = self._ticket() == ticket
        with self._changed:
            if self._flight is not flight:
                return False
            claim = self.outbox.confirm(flight.claim)
            if allowed and claim is not None:
                self._flight = flight._replace(claim=claim)
                return True
            if claim is not None:
                self.outbox.give_back(claim.folder)
            self._flight = None
            return False

    def _watch(self, run: object) -> None:
        """The watching thread."""
        with self._changed:
            while self._run is run:
                flight = self._flight
                left = flight.deadline - time.monotonic() if flight else _REQUEST_SECONDS
                if flight and left <= 0:
                    self._settle(flight, _NO_ANSWER)
                else:
                    self._changed.wait(left)

    def _settle(self, flight: _Flight, answer: _Answer) -> bool:
        """Act on what came of a request; True if it was delivered. Whoever comes first settles it, the rest is void."""
        with self._changed:
            current = self._flight
            if current is None or current.deadline != flight.deadline:
                return False
            claim, self._flight = current.claim, None
            delivered = 200 <= answer.status < 300
            refused = 400 <= answer.status < 500 and answer.status not in _KEPT_4XX
            if delivered or refused:
                self.outbox.finish(claim.folder)
                self._lost = self._lost or (refused and not self._own.keys().isdisjoint(claim.events))
                for name in claim.events:
                    self._own.pop(name, None)
            else:
                self.outbox.give_back(claim.folder)
            if delivered:
                self.outbox.resume(flight.destination.key)
            else:
                if not self.outbox.pause(flight.destination, _retry_seconds(answer.retry_after)):
                    self._quiet_until = time.monotonic() + _FIRST_PAUSE
                self._run = None
            self._changed.notify_all()
            return delivered

    def flush(self, timeout: float, allowed: Callable[[], bool]) -> bool:
        """Wait until all that this object recorded is delivered: True; False as soon as that can't be."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                self._look_elsewhere(allowed)
                if not self._own and not self._elsewhere:
                    return not self._lost
                if self._own and self._run is None and allowed():
                    self.wake()
                left = deadline - time.monotonic()
                if left <= 0 or (self._own and self._run is None):
                    return False
                self._changed.wait(min(left, 0.05))

    def _look_elsewhere(self, allowed: Callable[[], bool]) -> None:
        """See what became of own events that other processes claimed."""
        for name in list(self._elsewhere):
            if not self.outbox.is_here(name):
                del self._elsewhere[name]
                self._lost = self._lost or not allowed()  # gone: delivered, unless `disable` or a refusal took it
            elif os.path.lexists(self.outbox.path(name)):
                del self._elsewhere[name]
                self._own[name] = None

    def leave(self, deadline: float) -> None:
        """Wait until this run's events are gone or the deadline (monotonic) has come, and send nothing more.
        Ctrl-C ends the wait."""
        with self._changed:
            self._leaving = True
            try:
                while self._run and (self._flight or self._own) and time.monotonic() < deadline:
                    # in slices, because Windows lets no Ctrl-C through a wait
                    self._changed.wait(min(0.05, max(0.0, deadline - time.monotonic())))
            except KeyboardInterrupt:
                pass
            flight = self._flight
            if flight and flight.deadline - time.monotonic() > _REQUEST_SECONDS / 2:
                self._flight = None
                self.outbox.give_back(flight.claim.folder)  # too early to call it a failure
            elif flight:
                self._settle(flight, _NO_ANSWER)
            self._run = None
            self._changed.notify_all()

    @property
    def is_busy(self) -> bool:
        """Whether the threads are at work."""
        return self._run is not None


# === Telemetry: what the tool calls ===

_FRAME = "┌─┐│└┘"
_ASCII_FRAME = str.maketrans(_FRAME, "+-+|++")


def _say(stream: Optional[TextIO], text: str) -> bool:
    """Write to a standard stream, with `?` for what it can't print; False if it is closed, missing or full.

    Not through its buffer where that can be avoided: what stays there after an error fails again when the interpreter
    ends and changes the exit code.
    """
    try:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        data = text.encode(encoding, "replace")
        if stream is None:
            return False
        stream.flush()
        if os.name == "nt":  # consoles there take text, not bytes
            raise ValueError
        fd = stream.fileno()
    except (OSError, ValueError, AttributeError, LookupError):
        fd = -1
    try:
        while fd >= 0 and data:
            data = data[os.write(fd, data):]
        if fd < 0 and stream is not None:
            stream.write(text.encode(encoding, "replace").decode(encoding))
            stream.flush()
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _notice(product: Product, encoding: Optional[str]) -> str:
    """The first-run notice in its frame."""
    lines = ["", f"{product.name} collects anonymous usage data", "to help us improve the tool.", "",
             f"To disable: {product.command} telemetry disable"]
    lines += [f"Learn more: {product.docs_url}", ""] if product.docs_url else [""]
    width = max(map(len, lines)) + 3
    inner = [f"│{('  ' + line).ljust(width)}│" for line in lines]
    box = "\n".join(["┌" + "─" * width + "┐", *inner, "└" + "─" * width + "┘", ""])
    try:
        box.encode(encoding or "utf-8")
    except (UnicodeError, LookupError):
        return box.translate(_ASCII_FRAME)
    return box


class _Situation(NamedTuple):
    """All that is looked at before anything is recorded or sent."""
    refusal: str
    debug: bool
    ci: bool
    config: _Config
    destination: _Destination


def _survey(product: Product, project: object, files: _Files, environ: Mapping[str, str] = os.environ) -> _Situation:
    """Look at the environment, the project and the config file. Off by environment, no file is touched."""
    debug = _is_set(environ, product.env_prefix + "_DEBUG")
    refused = _environment_refusal(product, environ)
    if refused:
        return _Situation(refused, debug, False, _MISSING, _Destination("nobody", problem="telemetry is off"))
    config = _read_config(files.config)
    refusal = _refusal("", lambda: _project_section(product, project), lambda: config, files)
    return _Situation(refusal, debug, is_ci(environ), config, _destination(product, environ, config))


def _process_state() -> Dict[str, Any]:
    """What all copies of this file and all `Telemetry` objects in this process share: when the exit began, which
    folders' notice was shown in this run, the last time stamp. The main thread's object is the one place they all
    know. Plain values, because the copies may be of different versions."""
    state: Dict[str, Any] = threading.main_thread().__dict__.setdefault("_usage_telemetry", {})
    return state


def _next_stamp() -> int:
    """Now in microseconds since 1970, different from all others in this process."""
    # A forked child gets a lock of its own: its parent's may have been held by a thread that the child has not.
    state = _process_state().setdefault(f"stamps {os.getpid()}", {"lock": threading.Lock(), "last": 0})
    with state["lock"]:
        stamp: int = max(time.time_ns() // 1000, state["last"] + 1)
        state["last"] = stamp
    return stamp


class Telemetry:
    """Anonymous usage of one tool. No method raises, waits for the network or prints, except as documented.

    `version` is the tool's (letters, digits, `.+-_!`). `project` is the `telemetry` section of the project's own
    configuration, a mapping or None. `exit_wait` is how many seconds the interpreter's exit may wait at most.
    """

    def __init__(self, product: Product = CODEGEN, *, version: str = "unknown",
                 project: Optional[Mapping[str, object]] = None, exit_wait: float = 1.0) -> None:
        self._product = product
        self._version = _clean_version(version)
        self._project = project
        self._exit_wait = exit_wait
        self._closed = False
        self._hooked = False
        self._senders: Dict[int, _Sender] = {}  # by process: a forked child starts anew
        self._swallowed: Optional[Exception] = None

    @property
    def enabled(self) -> bool:
        """Whether events are recorded now."""
        return not self._guarded("error", lambda: self._look().refusal)

    @property
    def reason(self) -> str:
        """Who decided: "on by default", a variable's name, "project", the config file's path, "no place for ..."."""
        return self._guarded("error", lambda: self._look().refusal or ON_BY_DEFAULT)

    def track(self, event: str = "", /, **params: object) -> None:
        """Record an event of the product's table; what the table doesn't declare is dropped."""
        self._guarded(None, lambda: self._record(event or params.pop("event", ""), params))

    def command(self, name: str = "", /, flags: Iterable[str] = (), **params: object) -> _Command:
        """A context manager that times its block and records `command_executed`, and `error_occurred` if it failed."""
        return _Command(self, {**params, "command": name or params.get("name", ""), "flags": flags})

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait at most `timeout` seconds. True: all that this object recorded has been delivered."""
        return self._guarded(False, lambda: self._flush(timeout))

    def close(self, timeout: float = 1.0) -> bool:
        """Flush, then record nothing more: for hosts that end by `os._exit` or `os.exec*`."""
        delivered = self.flush(timeout)
        self._closed = True
        self._guarded(None, self._leave_now)
        return delivered

    def _guarded(self, default: _T, call: Callable[[], Any]) -> _T:
        """The call's result, or the default."""
        try:
            result: _T = call()
            return result
        except Exception as error:  # broad on purpose: telemetry never breaks its host
            self._swallow(error)
            return default

    def _swallow(self, error: Exception) -> None:
        """Keep an error that should not have happened, for the tests; debug mode shows it."""
        self._swallowed = error
        if _is_set(os.environ, self._product.env_prefix + "_DEBUG") and threading.current_thread().name != "telemetry":
            _say(sys.stderr, f"[telemetry] unexpected {type(error).__name__}\n")

    def _look(self) -> _Situation:
        return _survey(self._product, self._project, _files(self._product))

    def _sender(self) -> _Sender:
        """This process's sender."""
        pid = os.getpid()
        if pid not in self._senders:
            outbox = _Outbox(_files(self._product).outbox)
            self._senders.setdefault(pid, _Sender(outbox, self._ticket, self._build, self._swallow))
        return self._senders[pid]

    def _record(self, event: object, params: Mapping[str, object], wake: bool = True) -> None:
        seen = self._look()
        explain = self._explain if seen.debug else _nothing
        if self._closed or seen.refusal:
            return explain(f"telemetry is off: {seen.refusal or 'closed'}")
        declared = self._product.events.get(event) if isinstance(event, str) else None
        if declared is None or not isinstance(event, str):
            return explain(f"dropped an event: {ascii(event)[:60]} is not declared")
        seen = self._introduced(seen)
        if seen.refusal:
            return explain(f"telemetry is off: {seen.refusal}")
        kept, dropped = _checked(declared, params)
        for name in dropped:
            explain(f"dropped a parameter of {event}: {ascii(name)[:60]} is not declared or not of its kind")
        shaped = _event(event, kept, declared, self._version, seen.ci, _next_stamp())
        if seen.debug:
            return self._explain_request(seen, shaped)
        if seen.destination.problem:
            return None  # nobody to send it to
        sender = self._sender()
        sender.add(sender.outbox.put(seen.destination, seen.config.client_id, shaped))
        if wake and self._may_send(seen):
            self._wake()

    def _introduced(self, seen: _Situation) -> _Situation:
        """The situation after the config file was made and the notice was shown, if they were due."""
        files = _files(self._product)
        try:
            if seen.config is _MISSING:
                _create_config(files, _new_document(self._product, True))
                seen = self._look()
            elif not seen.config.client_id:
                _update_config(files.config, _give_id)
                seen = self._look()
            if not (seen.refusal or seen.ci or seen.config.notice_shown):
                self._show_notice(files)
                seen = self._look()
        except (OSError, ValueError):
            pass
        if not seen.refusal and not seen.config.client_id:
            return seen._replace(refusal=f"no place for {files.config}")
        return seen

    def _show_notice(self, files: _Files) -> None:
        """Show the notice and remember that, unless another process is about to: it holds the lock then."""
        stream = sys.stderr

        def show(document: Dict[str, Any]) -> bool:
            config = _interpreted(document)
            if config.notice_shown or not config.enabled:
                return False
            if not _say(stream, _notice(self._product, getattr(stream, "encoding", None))):
                return False
            _process_state()["noticed " + files.config] = True
            document["hasShownTelemetryNotice"] = True
            return True

        _update_config(files.config, show)

    def _is_held(self, seen: _Situation) -> bool:
        """Whether events wait for the next run: a user who has just been told must have the time to say no. Whoever
        set the destination by environment variable knows, and CI shows no notice."""
        if seen.destination.source != "product" or seen.ci:
            return False
        return not seen.config.notice_shown or "noticed " + _files(self._product).config in _process_state()

    def _may_send(self, seen: _Situation) -> bool:
        return not (seen.refusal or seen.debug or seen.destination.problem or not seen.config.client_id
                    or self._is_held(seen) or self._sender().outbox.paused_until(seen.destination.key))

    def _ticket(self) -> Optional[_Ticket]:
        """What the sender may send right now; None for nothing."""
        seen = self._look()
        return _Ticket(seen.destination, seen.config.client_id) if self._may_send(seen) else None

    def _build(self, ticket: _Ticket, events: List[Dict[str, Any]]) -> _Request:
        return _request(ticket.destination, ticket.client_id, events, _user_agent(self._product, self._version))

    def _wake(self) -> None:
        """Start sending, unless the interpreter is about to end: exit handlers run in the main thread after its end."""
        main = threading.main_thread()
        if not main.is_alive() and threading.get_ident() == main.ident:
            return
        if not self._hooked:
            self._hooked = True
            atexit.register(self._at_exit)
        self._sender().wake()

    def _prepare(self) -> None:
        """Start sending older events while the tool works."""
        seen = self._look()
        if seen.config.client_id and self._may_send(seen):
            if self._sender().outbox.waiting(seen.config.client_id, seen.destination.key):
                self._wake()

    def _flush(self, timeout: float) -> bool:
        sender = self._senders.get(os.getpid())
        return sender is None or sender.flush(timeout, lambda: self._may_send(self._look()))

    def _leave_now(self) -> None:
        atexit.unregister(self._at_exit)
        if os.getpid() in self._senders:
            self._sender().leave(time.monotonic())

    def _at_exit(self) -> None:
        """Wait for this run's events; all copies and objects in this process share one deadline."""
        self._guarded(None, self._leave_at_exit)

    def _leave_at_exit(self) -> None:
        sender = self._senders.get(os.getpid())
        if sender is None:
            return
        was_busy = sender.is_busy
        began = _process_state().setdefault("exit began", time.monotonic())
        sender.leave(began + self._exit_wait)
        if was_busy and isinstance(getattr(sys, "last_value", None), KeyboardInterrupt) and not hasattr(sys, "ps1"):
            # CPython ends a process by SIGINT when Ctrl-C ended its main module, but forgets that when any thread
            # evaluates source text meanwhile, as the standard library does while it is imported. This reminds it:
            # https://github.com/python/cpython/blob/v3.13.0/Python/pythonrun.c (run_eval_code_obj)
            try:
                exec("raise KeyboardInterrupt")
            except KeyboardInterrupt:
                pass

    def _explain(self, line: str) -> None:
        _say(sys.stderr, f"[telemetry] {line}\n")

    def _explain_request(self, seen: _Situation, event: Dict[str, Any]) -> None:
        """Debug mode's way to deliver: show the request on standard error."""
        shown = seen.destination._replace(api_secret="", endpoint=_masked(seen.destination.endpoint))
        request = self._build(_Ticket(shown, seen.config.client_id), [event])
        secret = ("&" if "?" in request.url else "?") + "api_secret=***" if seen.destination.api_secret else ""
        problem = seen.destination.problem
        line = f"no destination, nothing would be sent: {problem}" if problem else f"POST {request.url}{secret}"
        headers = [f"{name}: {value}" for name, value in request.headers.items()]
        self._explain("\n".join(["debug mode, nothing is sent", line, *headers, "", request.body.decode("ascii")]))


def _nothing(line: str) -> None:
    """What is explained outside debug mode."""


def _give_id(document: Dict[str, Any]) -> bool:
    """Add the anonymous ID to a config file that someone wrote without one."""
    section = document.setdefault("telemetry", {})
    if section.get("anonymousId"):
        return False
    section["anonymousId"] = _new_id()
    return True


class _Command:
    """What `Telemetry.command` returns."""

    def __init__(self, telemetry: Telemetry, params: Dict[str, object]) -> None:
        self._telemetry, self._params = telemetry, params
        self._began = 0.0

    def update(self, /, **params: object) -> None:
        """Add what is known only later."""
        self._params.update(params)

    def __enter__(self) -> _Command:
        self._telemetry._guarded(None, self._telemetry._prepare)
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        spent = round((time.monotonic() - self._began) * 1000)
        self._telemetry._guarded(None, lambda: self._finish(error, spent))

    def _finish(self, error: Optional[BaseException], spent: int) -> None:
        success = error is None or (isinstance(error, SystemExit) and error.code in (None, 0))
        wake = not isinstance(error, KeyboardInterrupt)  # who pressed Ctrl-C does not want to wait for us
        params = {"duration": spent, "success": success, **self._params}
        if not success:
            failed = {"command": self._params["command"], "error_type": error_type(error)}
            self._telemetry._record("error_occurred", failed, False)
        self._telemetry._record("command_executed", params, wake)


# === Command line: what the user calls ===

NEVER_COLLECTED = ("file paths or file names", "actual URLs or file locations", "file contents or schema details",
                   "project names", "user names or emails", "API keys or credentials",
                   "IP addresses (anonymized by the analytics provider)", "hostnames", "environment variable values",
                   "Git repository information", "custom schema structures", "error messages or stack traces",
                   "values of arguments")
_COMMON_MEANING = MappingProxyType({
    "cli_version": "the tool's version", "python_version": "such as 3.11.7", "os": "such as linux",
    "ci": "whether a CI service runs it", "session_id": "the second the process started",
    "engagement_time_msec": "the duration, at least 1"})
_USAGE = """\
usage: {command} telemetry status [--json]
       {command} telemetry enable
       {command} telemetry disable

status    show whether telemetry is on, who decided, and what is collected
enable    switch it on for this user
disable   switch it off for this user, and delete what waits
"""


def _variables(product: Product, environ: Mapping[str, str]) -> Dict[str, str]:
    """The variables of ours that are set, and the effect of each."""
    named = bool(environ.get(product.env_prefix + "_ENDPOINT", "").strip())
    belongs = "goes to that endpoint" if named else f"no effect without {product.env_prefix}_ENDPOINT"
    effects = {"DO_NOT_TRACK": "turns telemetry off", product.env_prefix + "_DISABLED": "turns telemetry off",
               product.env_prefix + "_DEBUG": "shows requests instead of sending them"}
    found = {name: effect if _is_set(environ, name) else "no effect (its value means no)"
             for name, effect in effects.items() if name in environ}
    for name, effect in (("ENDPOINT", "sets the destination"), ("ID", belongs), ("API_SECRET", belongs)):
        variable = f"{product.env_prefix}_{name}"
        if variable in environ:
            found[variable] = effect if environ[variable].strip() else "no effect (empty)"
    return found


def _status(product: Product, environ: Mapping[str, str] = os.environ) -> Dict[str, Any]:
    """Everything that `status` shows, as JSON types. Reads only."""
    files = _files(product)
    config = _read_config(files.config)
    refusal = _refusal(_environment_refusal(product, environ), lambda: _project_section(product, None),
                       lambda: config, files)
    destination = _destination(product, environ, config)
    outbox = _Outbox(files.outbox)
    waiting = outbox.waiting(config.client_id) if config.client_id else []
    paused = 0.0 if destination.problem else outbox.paused_until(destination.key)
    return {
        "enabled": not refusal,
        "reason": refusal or ON_BY_DEFAULT,
        "config_file": {"path": files.config, "exists": config is not _MISSING,
                        "problem": "" if config is _MISSING else config.problem},
        "anonymous_id": config.client_id,
        "destination": {"endpoint": "" if destination.problem else _masked(destination.endpoint),
                        "measurement_id": "" if destination.problem else destination.measurement_id,
                        "source": destination.source, "problem": destination.problem},
        "ci": is_ci(environ),
        "environment": _variables(product, environ),
        "waiting": {"events": len(waiting), "since": _now_text(_event_stamp(waiting[0])) if waiting else None,
                    "next_attempt": _now_text(paused) if paused else None},
        "collected": {event: {name: _kind_name(kind) for name, kind in params.items()}
                      for event, params in product.events.items()},
        "collected_with_every_event": dict(_COMMON_MEANING),
        "never_collected": list(NEVER_COLLECTED),
        "turn_off": [f"{product.command} telemetry disable", f"{product.env_prefix}_DISABLED=1", "DO_NOT_TRACK=1"],
        "docs_url": product.docs_url,
    }


def _wrapped(label: str, text: str) -> List[str]:
    from textwrap import wrap  # only `status` needs it
    label = f"{label:<16}"
    return wrap(text, 79, initial_indent=label, subsequent_indent=" " * 16, break_long_words=False,
                break_on_hyphens=False) or [label.rstrip()]


def _status_lines(status: Dict[str, Any], project_file: str) -> List[str]:
    """The status for people: at most 80 columns, but for paths and URLs that are longer; ASCII but for those."""
    config, destination, waiting = status["config_file"], status["destination"], status["waiting"]
    found = "exists" if config["exists"] else "does not exist yet"
    named = f"{destination['endpoint']} (from the {destination['source']})"
    if destination["measurement_id"]:
        named += f" with ID {destination['measurement_id']}"
    queue = f"{waiting['events']} events" + (f", the oldest of {waiting['since']}" if waiting["since"] else "")
    lines = [f"Telemetry is {'on' if status['enabled'] else 'off'}: {status['reason']}", ""]
    lines += _wrapped("Config file", f"{config['path']} ({'damaged: ' + config['problem'] if config['problem'] else found})")
    lines += _wrapped("Anonymous ID", status["anonymous_id"] or "none yet")
    lines += _wrapped("Destination", f"none: {destination['problem']}" if destination["problem"] else named)
    lines += _wrapped("Waiting", queue)
    lines += _wrapped("Next attempt", f"not before {waiting['next_attempt']}, after a failure") \
        if waiting["next_attempt"] else []
    lines += _wrapped("CI", "yes: no first-run notice" if status["ci"] else "no")
    lines += ["", "Variables that are set"]
    lines += [f"  {name}: {effect}" for name, effect in status["environment"].items()] or ["  none"]
    lines += ["", "Collected, and nothing else"]
    for event, params in status["collected"].items():
        lines += [f"  {event}"]
        lines += _wrapped("", ", ".join(f"{name} ({kind})" for name, kind in params.items()))
    lines += ["  with every event"]
    lines += _wrapped("", ", ".join(f"{name} ({text})" for name, text in status["collected_with_every_event"].items()))
    lines += ["  the kinds"] + [f"    {kind:<12}  {text}" for kind, text in KINDS.items()]
    lines += ["", "Never collected", *_wrapped("", "; ".join(status["never_collected"]))]
    lines += ["", "To turn it off", *(f"  {way}" for way in status["turn_off"])]
    lines += [f'  "telemetry": {{"enabled": false}} in {project_file}'] if project_file else []
    return lines + (["", f"Learn more: {status['docs_url']}"] if status["docs_url"] else [])


def _set_enabled(product: Product, enabled: bool) -> None:
    """Write the user's decision, durably. Raises OSError, ValueError when it could not."""
    files = _files(product)
    if not files.config:
        raise FileNotFoundError(errno.ENOENT, "there is no home folder", "~")
    was_on = _read_config(files.config)

    def decide(document: Dict[str, Any]) -> bool:
        _interpreted(document)
        section = document.setdefault("telemetry", {})
        section["enabled"] = enabled
        _give_id(document)
        return True

    if was_on.problem and was_on is not _MISSING:
        if not enabled:
            raise ValueError(f"{files.config} is damaged ({was_on.problem}) and was left as it is")
        _patiently(partial(os.replace, files.config, files.config + ".bak"))
    if os.path.lexists(files.config) and _read_config(files.config) is not _MISSING:
        _update_config(files.config, decide, 2.0)
    elif not _create_config(files, _new_document(product, enabled), True):
        _update_config(files.config, decide, 2.0)
    outbox = _Outbox(files.outbox)
    if not enabled or not was_on.enabled:
        outbox.delete()  # also what was recorded in the moment of a `disable` is not sent after an `enable`
    else:
        outbox.resume()


def _decide(product: Product, enabled: bool, environ: Mapping[str, str] = os.environ) -> int:
    """`enable` and `disable`."""
    variable = product.env_prefix + "_DISABLED"
    try:
        _set_enabled(product, enabled)
    except (OSError, ValueError) as error:
        reason = f"{error.strerror or error}: {error.filename}" if isinstance(error, OSError) else str(error)
        _say(sys.stderr, f"Could not {'enable' if enabled else 'disable'} telemetry: {reason}\n"
             + ("" if enabled else f"This works instead: set {variable}=1 in the environment.\n"))
        return 1
    refusal = _survey(product, None, _files(product), environ).refusal
    if not enabled:
        _say(sys.stderr, "Telemetry is off. What waited to be sent is deleted.\n")
    elif refusal:
        _say(sys.stderr, f"Telemetry is enabled for this user, but still off here: {refusal} says no.\n")
    else:
        _say(sys.stderr, "Telemetry is on. Thank you.\n")
    return 0


def main(argv: Optional[List[str]] = None, *, product: Product = CODEGEN) -> int:
    """The command line: `status [--json]`, `enable`, `disable`. Facts go to standard output, messages to standard
    error. Returns 0 for done, 1 for could not, 2 for wrong usage; never raises SystemExit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    usage = _USAGE.format(command=product.command)
    if {"-h", "--help"} & set(arguments):
        _say(sys.stdout, usage)
        return 0
    if arguments in (["enable"], ["disable"]):
        return _decide(product, arguments == ["enable"])
    if sorted(arguments) in (["status"], ["--json", "status"]):
        status = _status(product)
        shown = json.dumps(status, indent=2) if "--json" in arguments else \
            "\n".join(_status_lines(status, product.project_file))
        _say(sys.stdout, shown + "\n")
        return 0
    _say(sys.stderr, usage)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
