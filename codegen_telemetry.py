# SPDX-License-Identifier: 0BSD
"""Anonymous usage telemetry for a command-line tool, in one file of standard library.

Copy this file into your package, describe your tool with a `Product`, and call:

| name | what it is |
| --- | --- |
| `Product`, `CODEGEN` | who is speaking: an immutable description of a tool, and one of them |
| `is_ci(environ)` | whether a continuous integration service runs us |
| `input_source(value)` | where an input lies, never the input itself |
| `error_type(exc)` | the category of an exception, from its type alone |
| `Telemetry(product, version=...)` | `track`, `command`, `flush`, `close`, `enabled`, `reason` |
| `main(argv, product=...)` | the command line: `status`, `enable`, `disable` |

    telemetry = Telemetry(Product(name="Example", command="example"), version="1.0")
    with telemetry.command("build", flags=["--watch"]):
        ...                     # the tool's work

What a reviewer may rely on:

- Any "no" wins: `DO_NOT_TRACK`, `<PREFIX>_DISABLED`, the project, the user's config file, no place for it.
- Only what `Product.events` declares leaves: words, numbers, choices; no free text, path or message.
- `track` writes one small file and returns; a daemon thread sends. A request takes a second at most, the exit
  waits `exit_wait` seconds at most, and after a failure nothing is tried for ten minutes and more.
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
import weakref
from binascii import crc32
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial, wraps
from io import open  # noqa: UP029, at the interpreter's end the builtin one is gone before the host's objects
from itertools import islice
from types import MappingProxyType

TYPE_CHECKING = False  # a checker knows better; at run time `typing` would cost more than all of this file
if TYPE_CHECKING:
    from typing import Any, List, Tuple, TypeVar, Union
    Kind = Union[str, Tuple[str, ...], Mapping[str, Tuple[str, ...]]]  # what a parameter may hold
    Events = Mapping[str, Mapping[str, Kind]]
    Value = Union[bool, int, float, str]  # what leaves
    _Answer = Tuple[int, float]  # the status and the seconds that Retry-After asks for, each 0 for none
    _Calls = List[Callable[[], None]]  # what one thread has the other one do
    _T = TypeVar("_T")

__all__ = ["CODEGEN", "Product", "Telemetry", "error_type", "input_source", "is_ci", "main"]
__version__ = "1.0.0"


# === Product: who is speaking? ===

# What each kind of parameter lets through, in the words of `status`.
KINDS = MappingProxyType({
    "flag": "true or false", "count": "a whole number", "milliseconds": "a whole number of milliseconds",
    "choice": "one of a fixed list of words, else other",
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
    "api_secret": "", "project_file": "codegen.config.json", "events": {
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
    "ci": "whether a CI service runs it", "session_id": "the second the process started",
    "engagement_time_msec": "the duration, at least 1"})
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
    if not is_option and isinstance(kind, str) and kind in KINDS and kind != "choice":
        return MappingProxyType({}) if kind == "options" else kind
    if isinstance(kind, (tuple, list, set, frozenset)) and kind and all(
            isinstance(word, str) and word.isascii() and word.isprintable() and 0 < len(word) <= _MAX_TEXT
            and not set('"\\').intersection(word) for word in kind):
        return tuple(kind)
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


class Product(namedtuple("_Fields", "name command env_prefix directory docs_url endpoint tracking_id "
                                    "api_secret events project_file")):
    """A tool's identity, immutable; every field is keyword-only.

    | field | what it is | default |
    | --- | --- | --- |
    | `name` | the name in the notice | `command` |
    | `command` | what users type, before `telemetry disable` | `codegen` |
    | `env_prefix` | of `<env_prefix>_DISABLED`, `_DEBUG`, `_ENDPOINT`, ... | `<COMMAND>_TELEMETRY` |
    | `directory` | folder of all files, in the home folder unless absolute | `.<command>-telemetry` |
    | `docs_url` | the page that the notice names | none |
    | `endpoint` | where events go: an http(s) URL | Google Analytics 4 |
    | `tracking_id`, `api_secret` | GA4's measurement ID and its secret; nothing is sent without both | none |
    | `events` | `{event: {parameter: kind}}` | that of `CODEGEN` |
    | `project_file` | JSON file in the working directory whose `telemetry.enabled` may say no | none |

    Without `command` the defaults are those of `CODEGEN`. A kind is a name from `KINDS`; a choice is the
    tuple of its words; options are a mapping from an option to the words it may hold. Raises ValueError for
    an event that GA4 would refuse and for a malformed name, command, directory or prefix.
    """
    __slots__ = ()

    def __new__(cls, *, name: str | None = None, command: str | None = None, env_prefix: str | None = None,
                directory: str | None = None, docs_url: str | None = None, endpoint: str | None = None,
                tracking_id: str | None = None, api_secret: str | None = None, events: Events | None = None,
                project_file: str | None = None) -> Product:
        given = {key: value for key, value in locals().items() if key in cls._fields and value is not None}
        fields = {**_CODEGEN, **given}
        for field, value in fields.items():
            if not isinstance(value, Mapping if field == "events" else str):
                raise ValueError(f"{field} must be a {'table' if field == 'events' else 'text'}")
        if fields["command"] != _CODEGEN["command"]:  # another tool has an opt-out and a folder of its own
            slug = re.sub("[^A-Za-z0-9]", "-", fields["command"]).strip("-")
            if not slug and not (env_prefix and directory):
                raise ValueError("a command without ASCII letters needs an env_prefix and a directory")
            fields.update(name=fields["command"], env_prefix=slug.replace("-", "_").upper() + "_TELEMETRY",
                          directory=f".{slug.lower()}-telemetry", docs_url="", project_file="")
            fields.update(given)
        for field in ("command", "name", "directory"):
            if not fields[field].strip(" .") or not fields[field].isprintable():
                raise ValueError(f"{field} must be a printable text, not {fields[field]!r}")
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

_MAX_FILE = 64 * 1024             # bytes; ours has 400, so a larger one is not ours
_MAX_PROJECT_FILE = 1024 * 1024   # bytes; a project's configuration may be long, and its "no" counts
_TEMPORARY = "[.][0-9]+-[0-9a-f]{8}[.]tmp"  # the end of the name of a file being written
_STALE_SECONDS = 10.0             # a lock or claim this old belongs to a process that is gone
# What the config file says. `problem` is empty, or why the file can't be used.
_Config = namedtuple("_Config", "problem enabled notice_shown client_id endpoint tracking_id api_secret",
                     defaults=(False, False, "", "", "", ""))
_MISSING = _Config("it does not exist")


def _config_path(product: Product) -> str:
    """The config file of this user; empty when there is no home folder with an absolute path."""
    folder = os.path.join(os.path.expanduser("~"), os.path.expanduser(product.directory))
    return os.path.join(folder, "config.json") if os.path.isabs(folder) else ""


def _has_place(path: str) -> bool:
    """Whether the config file could be made. Its folder is, the home folder is not."""
    folder, home = os.path.dirname(path), os.path.expanduser("~")
    place = home if folder.startswith(home + os.sep) else os.path.dirname(folder)
    if os.path.lexists(folder):
        place = os.path.dirname(os.path.realpath(path))
    return bool(path) and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def _read_object(path: str, limit: int = _MAX_FILE) -> dict[str, Any]:
    """The JSON object in a regular file of at most `limit` bytes. Raises OSError, ValueError."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would be to wait for its writer
        raise ValueError("it is not a regular file")
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        data = os.read(file, limit + 1)
    finally:
        os.close(file)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON, or nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    return document


def _quietly(call: Callable[[], _T], default: _T) -> _T:
    """The call's result, or the default if it raises."""
    try:
        return call()
    except Exception:  # broad on purpose: for our threads, and for objects of the host
        return default


def _interpreted(document: dict[str, Any]) -> _Config:
    """The parts of a config file that we use. Raises ValueError when one of them has the wrong type."""
    if not _quietly(lambda: bool(json.dumps(document, allow_nan=False)), False):
        raise ValueError("it holds what can't be written again: NaN, 1e999, or too deep a nesting")
    section, notice = document.get("telemetry", {}), document.get("hasShownTelemetryNotice", False)
    read = section.get if isinstance(section, dict) else lambda key, default: None
    texts = [read(key, "") for key in ("anonymousId", "endpoint", "trackingId", "apiSecret")]
    about = [document.get(key, "") for key in ("version", "lastUpdated")]
    if not isinstance(notice, bool) or not all(isinstance(text, str) for text in texts + about):
        raise ValueError("a value has the wrong type")
    if texts[0] and not re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", texts[0]):
        raise ValueError("telemetry.anonymousId is not a UUID")
    return _Config("", section.get("enabled") is True, notice, *(str(text).strip() for text in texts))


def _patiently(call: Callable[[], _T]) -> _T:
    """The call's result. Windows, and only that, refuses to open or replace what another process has open."""
    for _ in range(10 if os.name == "nt" else 0):
        try:
            return call()
        except PermissionError:
            time.sleep(0.01)
    return call()


def _read_config(path: str) -> _Config:
    """What the config file says. Never raises, never writes."""
    try:
        return _interpreted(_patiently(partial(_read_object, path)))
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING
    except (OSError, ValueError) as error:
        return _Config(f"it can't be read: {error.strerror}" if isinstance(error, OSError) else str(error))


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _age(path: str) -> float:
    """Seconds since the file was written, without sign, for clocks are set; 0 if it is gone."""
    with suppress(OSError):
        return abs(time.time() - os.stat(path).st_mtime)
    return 0.0


def _stamp(path: str) -> None:
    """Say that the file was written now, by our clock: a file server may have another."""
    with suppress(OSError):
        os.utime(path, (time.time(), time.time()))


def _store(path: str, data: bytes, put: Callable[[str, str], None], durable: bool = False) -> None:
    """Write a file for its user only and `put` it at `path`: complete or not at all. Raises OSError."""
    temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "xb", opener=partial(os.open, mode=0o600)) as file:  # noqa: UP020
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        _patiently(partial(put, temporary, path))
    finally:
        _unlink(temporary)


def _time_text(seconds: float | None = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _encoded(document: dict[str, Any]) -> bytes:
    """A config file as of now, with an anonymous ID. Raises ValueError when we could not read it any more."""
    if not document["telemetry"].get("anonymousId"):
        import uuid  # needed once in the life of a config file
        document["telemetry"]["anonymousId"] = str(uuid.uuid4())
    document["lastUpdated"] = _time_text()
    for indent, is_ascii in ((2, True), (None, True), (None, False)):
        data = json.dumps(document, indent=indent, ensure_ascii=is_ascii).encode() + b"\n"
        if len(data) <= _MAX_FILE:
            return data
    raise ValueError("it would become too large")


@contextmanager
def _locked(path: str, wait: float) -> Iterator[None]:
    """Hold the lock of a config file, for which we wait so many seconds at most. Raises OSError."""
    lock, flags, deadline = path + ".lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL, time.monotonic() + wait
    while True:
        if _age(lock) > _STALE_SECONDS:
            folder, file_name = os.path.split(path)
            for name in os.listdir(folder):  # its holder, if it only slept, must not go on
                if re.fullmatch(re.escape(file_name) + _TEMPORARY, name):
                    _unlink(os.path.join(folder, name))
            _unlink(lock)
        try:
            file = _patiently(lambda: os.open(lock, flags, 0o600))
            break
        except FileExistsError:
            if time.monotonic() >= deadline:
                raise OSError(f"another process holds {lock}") from None
            time.sleep(0.01)
    mine = 0
    try:
        os.close(file)
        _stamp(lock)
        mine = os.stat(lock).st_mtime_ns
        yield
    finally:
        with suppress(OSError):
            if mine in (0, os.stat(lock).st_mtime_ns):  # else we slept, and another process broke it
                os.unlink(lock)


def _create_config(product: Product, path: str, enabled: bool) -> None:
    """Create the config file, complete and by one process only, unless it exists. Raises OSError."""
    if not _has_place(path):
        raise OSError(f"there is no place for {path or 'a config file'}")
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    path, data = os.path.realpath(path), _encoded({"version": "1.0.0", "telemetry": {
        "enabled": enabled, "anonymousId": "", "endpoint": product.endpoint,
        "trackingId": product.tracking_id}, "hasShownTelemetryNotice": False})
    try:
        _store(path, data, os.link)  # exclusive: of many processes one is the first
    except (AttributeError, NotImplementedError, OSError):
        if not os.path.lexists(path):  # a file system without hard links
            with _locked(path, 0.1 if enabled else 2.0):
                if not os.path.lexists(path):
                    _store(path, data, os.replace)


@contextmanager
def _editing(path: str, wait: float, durable: bool = False) -> Iterator[dict[str, Any]]:
    """The config file's document, under a lock for which we `wait` seconds at most; written if the block
    changed it or it has no anonymous ID, and always if `durable`. Raises OSError, ValueError."""
    def put(temporary: str, path: str) -> None:
        if _read_object(path) != before:  # by who knows no lock, or slept through its end
            raise OSError(f"another program has just changed it: {path}")
        os.replace(temporary, path)

    path = os.path.realpath(path)
    with _locked(path, wait):
        before, document = _read_object(path), _read_object(path)
        client_id = _interpreted(document).client_id
        document.setdefault("telemetry", {})
        yield document
        if durable or document != before or not client_id:
            _store(path, _encoded(document), put, durable)


# === Consent: may we send, and who decided? ===

_NO_WORDS = frozenset(("", "0", "false", "no", "off"))
_ON = "on by default"


def _is_set(environ: Mapping[str, str], variable: str) -> bool:
    """Whether a variable is set to anything but a word for no. Undecodable bytes count as set."""
    return environ.get(variable, "").strip().lower() not in _NO_WORDS


def _absolute(file: str) -> str:
    """The file by a name that holds in any working directory; empty for none."""
    return file and _quietly(lambda: os.path.abspath(file), "")


def _projects(given: object, file: str, start: str) -> Iterator[object]:
    """The `telemetry` sections that count: what the host gave, else those in the project's file here and, by
    its absolute name `start`, where the tool began."""
    if given is not None:
        yield given
        return
    for name in filter(None, (file, "" if start == _absolute(file) else start)):
        with suppress(OSError, ValueError):  # one that can't be read is no answer
            yield _read_object(name, _MAX_PROJECT_FILE).get("telemetry")


def _says_no(project: object) -> bool:
    """Whether a `telemetry` section does. One that raises does, and so does anything else."""
    if isinstance(project, Mapping):
        return _quietly(lambda: project.get("enabled", True) is not True, True)
    return not (project is None or project is True)


def _refusal(projects: Iterable[object], config: _Config, path: str) -> str:
    """Who says no first: project, config file, no place for one; empty if nobody does."""
    if any(map(_says_no, projects)):
        return "project"
    if config is not _MISSING:
        return "" if config.enabled else path
    return "" if _has_place(path) else f"no place for {path or 'a config file'}"


# === Context: where are we running? ===

# Variables that continuous integration services set: those of the documented nine, the generic two, those of
# services that may not set these. Names as in https://github.com/watson/ci-info/blob/master/vendors.json
CI_VARIABLES = tuple("""
    GITHUB_ACTIONS GITLAB_CI CIRCLECI TRAVIS JENKINS_URL BITBUCKET_BUILD_NUMBER CODEBUILD_BUILD_ID
    TEAMCITY_VERSION BUILDKITE CI CONTINUOUS_INTEGRATION TF_BUILD APPVEYOR bamboo_planKey CF_BUILD_ID DRONE
    GO_PIPELINE_LABEL HARNESS_BUILD_ID HUDSON_URL PROW_JOB_ID SCREWDRIVER TASKCLUSTER_ROOT_URL XCS""".split())
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


def _plain(value: object) -> str:
    """The characters of a text as an exact `str`, by no method of its own, for it may lie; else empty."""
    return str.__getitem__(value, slice(None)) if issubclass(type(value), str) else ""  # type: ignore[index]


def is_ci(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a continuous integration service runs us, by the variables it sets. `CI=false` is not CI."""
    return any(_is_set(environ, variable) for variable in CI_VARIABLES)


def input_source(value: object) -> str:
    """Where an input lies: "remote_url", "local_relative" or "local_absolute". Never raises, touches no file.
    Windows drives and UNC paths are absolute on every system, and so are `file:` URLs and `~`."""
    text = _plain(_quietly(lambda: os.fsdecode(value), value)).strip()  # type: ignore[arg-type]
    if re.match(r"(?i)(file:/|[a-z]:|[/\\~])", text):
        return "local_absolute"
    return "remote_url" if re.match("[A-Za-z0-9+.-]{2,}:/", text) else "local_relative"


def error_type(exc: object) -> str:
    """The category of an exception, of `ERROR_TYPES`, by its type and never by its message. Never raises."""
    def found() -> str:
        kind: Any = exc if issubclass(type(exc), type) else type(exc)
        bases = kind.__mro__  # of a class that may have a class of its own, which raises
        names = ("ConfigError" if base.__module__ == "configparser" else base.__name__ for base in bases)
        return next(_ERROR_NAMES[name] for name in names if name in _ERROR_NAMES)
    return _quietly(found, "unknown_error")


# === Events: what may leave? ===

_MAX_NUMBER = 10 ** 9
_MAX_ITEMS = 1000  # of a list or mapping that we look at: it may be endless


def _word(value: object) -> str:
    """The word, or "other": too short for a path or a sentence, with too few digits for an identifier."""
    text = _plain(value)
    return text if re.fullmatch("(?!([^0-9]*[0-9]){4})[a-z][A-Za-z0-9_-]{0,31}", text) else "other"


def _words(name: str, value: Any, dropped: list[str]) -> str:
    """Words joined by commas, in their order and once each; cut to GA4's 100 characters at a comma."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        value = () if value is None else (value,)
    flags = (_plain(item)[:_MAX_FILE].lstrip("-").partition("=")[0] for item in islice(value, _MAX_ITEMS))
    text = ",".join(dict.fromkeys(map(_word, flags))) or "none"
    if len(text) <= _MAX_TEXT:
        return text
    dropped.append(f"{name} is longer than {_MAX_TEXT} characters, the last words")
    return text[:_MAX_TEXT + 1].rpartition(",")[0]


def _number(value: Any, least: int = 0) -> int | float | None:
    """The number if it is one, finite, from `least` to 10^9, and no bool."""
    if type(value) is bool or not issubclass(type(value), (int, float)):
        return None
    number = float.__add__(value, 0.0) if issubclass(type(value), float) else int.__add__(value, 0)
    return number if least <= number <= _MAX_NUMBER else None  # false for NaN and the infinities too


def _options(name: str, value: object, declared: Mapping[str, tuple[str, ...]],
             dropped: list[str]) -> dict[str, Value]:
    """One parameter an option: `<name>_<option>`. Nested values and odd names are left out."""
    flat: dict[str, Value] = {}
    for option, held in islice(value.items(), _MAX_ITEMS) if isinstance(value, Mapping) else ():
        option, number = _plain(option), _number(held, -_MAX_NUMBER)
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


def _shaped(name: str, kind: Kind, value: object, dropped: list[str]) -> dict[str, Value]:
    """The parameters that may leave for one that was passed; none if it has to be dropped."""
    if isinstance(kind, Mapping):
        return _options(name, value, kind, dropped)
    if isinstance(kind, tuple):
        return {name: _plain(value) if _plain(value) in kind else "other"}
    if kind == "flag":
        return {name: value} if value is True or value is False else {}
    if kind in ("count", "milliseconds"):
        number = _number(value)
        return {} if number is None else {name: round(number)}
    return {name: _words(name, value, dropped) if kind == "words" else _word(value)}


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


def _event(name: str, params: dict[str, Value], declared: Mapping[str, Kind], version: str, ci: bool,
           stamp: int) -> dict[str, Any]:
    """The event as GA4 takes it. `stamp` is the moment of recording in microseconds since 1970."""
    spent = [int(params[key]) for key, kind in declared.items() if kind == "milliseconds" and key in params]
    return {"name": name, "timestamp_micros": stamp, "params": {
        **params, "cli_version": version, "python_version": "%d.%d.%d" % sys.version_info[:3],
        "os": sys.platform, "ci": ci, "session_id": int(_PROCESS_START),
        "engagement_time_msec": max([1, *spent[:1]])}}


# === Wire: what does it look like outside? ===

# Where events go, and for whom. `source` named it; `problem` is empty, or why there is no destination; `key`
# is eight hexadecimal digits that stand for endpoint and measurement ID in the names of files.
_Destination = namedtuple("_Destination", "source endpoint measurement_id api_secret client_id agent problem "
                                          "key", defaults=("", "", "", "", "", "", ""))


def _destination(product: Product, environ: Mapping[str, str], config: _Config, agent: str) -> _Destination:
    """The first that is set; an ID and a secret stay with the endpoint that they came with."""
    named = [environ.get(product.env_prefix + end, "").strip() for end in ("_ENDPOINT", "_ID", "_API_SECRET")]
    placeholder, problem = _CODEGEN["tracking_id"], ""
    copies = [(product.endpoint, own_id) for own_id in ("", product.tracking_id, placeholder)]
    # Google takes nothing without a secret: such an ID is a copy of what an earlier version of the tool had.
    is_old = product.api_secret and not config.api_secret and re.fullmatch(
        "https://([a-z0-9-]+[.])?google-analytics[.]com/mp/collect", config.endpoint)
    if named[0]:
        found = _Destination("environment", *named)
    elif config.endpoint and not is_old and (config.endpoint, config.tracking_id) not in copies:
        found = _Destination("config file", config.endpoint, config.tracking_id, config.api_secret)
    else:  # the config file holds a copy of the product's endpoint and ID; a secret beside it belongs to them
        secret = product.api_secret or config.api_secret * (config.tracking_id == product.tracking_id)
        found = _Destination("product", product.endpoint, product.tracking_id, secret)
    # urllib.parse takes its time to load and says less; no user name, raw blanks, quotes, <, > or backslashes
    url = re.fullmatch(r"[Hh][Tt][Tt][Pp][Ss]?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?"
                       r"(?:[/?#][!#-;=?-\[\]-~]*)?", found.endpoint)
    if found.source == "product" and (not found.api_secret or found.measurement_id in ("", placeholder)):
        problem = f"{product.command} has no measurement ID and secret of its own"
    elif not url or int(url.group(1) or 0) > 65535:
        problem = (f"the {found.source}'s endpoint is no http:// or https:// URL of plain ASCII without a "
                   "user name")
    elif not (found.measurement_id + found.api_secret).isprintable():
        problem = f"the {found.source}'s ID or secret has characters that can't be sent"
    key = "%08x" % crc32(f"{found.endpoint}\n{found.measurement_id}".encode(errors="replace"))
    return found._replace(client_id=config.client_id, agent=agent, problem=problem, key=key)


def _masked(url: str) -> str:
    """The URL without its fragment, and `***` for the value of an `api_secret` and of any name in %-code."""
    return re.sub("(?i)([?&;](?:api_secret|[^&=]*%[^&=]*)=)[^&]*", r"\1***", url.partition("#")[0])


def _request(to: _Destination, events: list[dict[str, Any]]) -> tuple[str, dict[str, str], bytes]:
    """URL, headers and body of the POST that delivers these events, at most 25 of them."""
    from urllib.parse import quote  # only where something is about to be sent or shown
    base, mark, query = to.endpoint.partition("#")[0].partition("?")
    parts = [part for part in query.split("&") if part]
    for name, value in (("measurement_id", to.measurement_id), ("api_secret", to.api_secret)):
        parts += [f"{name}={quote(value, safe='', errors='replace')}"] if value else []
    body = json.dumps({"client_id": to.client_id, "events": events}, allow_nan=False).encode("ascii")
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "User-Agent": to.agent}
    return base + ("?" if parts else mark) + "&".join(parts), headers, body


# === Outbox: what waits? ===

_MAX_WAITING = 500
_MAX_AGE = 72 * 3600.0     # seconds; GA4 takes no older events
_HOUR = 3600 * 10 ** 6     # microseconds
_MAX_BATCH = 25            # GA4's limit of events a request
_MAX_EVENT = 5000          # bytes; 25 of them stay below GA4's 130 kB
_FIRST_PAUSE, _LAST_PAUSE = 600.0, 86400.0  # seconds without a try after a failure
_BOUND_TO = ("endpoint", "measurement_id", "client_id")  # what an event is never sent to another of
_EVENT = "[0-9]{16}(-[0-9a-fA-F]{8}){3}[.]json"
_CLAIM = "[0-9a-f]{8}-[0-9]+-[0-9a-f]{8}[.](claim|sent)"
_PAUSE = "[0-9a-f]{8}[.]pause"
_OURS = f"{_EVENT}|{_CLAIM}|{_PAUSE}|({_EVENT}|{_PAUSE}){_TEMPORARY}"
# Seconds until a file or claim of this ending is no longer kept; a pause counts failures of weeks in a row.
_MAX_AGES = MappingProxyType({"json": _MAX_AGE, "pause": 10 * _MAX_AGE, "claim": _STALE_SECONDS,
                              "tmp": _STALE_SECONDS, "sent": -1.0})


class _Outbox:
    """Events that wait on disk, shared by every process of a user; renaming is the only lock.

    | name | what it is |
    | --- | --- |
    | `<microseconds>-<client>-<destination>-<random>.json` | an event that waits |
    | `<destination>-<process>-<random>.claim/` | events that a process is sending |
    | the same with `.sent` | delivered events being deleted |
    | `<destination>.pause` | when the next try is due after a failure, and how many there were in a row |
    | `*.tmp` | a file being written |
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder  # an empty text, when there is no place, is no folder to the system
        self._room = 0  # how many events may be put before the next look at what waits

    def path(self, *names: str) -> str:
        return os.path.join(self._folder, *names)

    def names(self, pattern: str, folder: str = "") -> list[str]:
        """What lies here, or in a claim, and matches; oldest first. Raises OSError if that can't be read."""
        try:
            return sorted(filter(re.compile(pattern).fullmatch, os.listdir(self.path(folder))))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def waiting(self, to: _Destination) -> list[str]:
        """Names of the events that wait for this client and destination, oldest first."""
        return self.names(f"[0-9]{{16}}-{to.client_id[:8]}-{to.key}-[0-9a-f]{{8}}[.]json")

    def present(self) -> set[str]:
        """Names of all events that wait or are being sent; a second look, for they move both ways."""
        found = set(self.names(_EVENT))
        for claim in self.names(".*[.]claim"):
            with suppress(PermissionError):  # of another user
                found.update(self.names(_EVENT, claim))
        return found.union(self.names(_EVENT))

    def put(self, to: _Destination, event: dict[str, Any]) -> str:
        """Write an event, complete or not at all, and return its name. Raises OSError, ValueError."""
        name = f"{event['timestamp_micros']:016d}-{to.client_id[:8]}-{to.key}-{os.urandom(4).hex()}.json"
        with suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)
        self._write(name, to, event)
        self._room -= 1
        if self._room < 0:  # a look costs time
            self._room = min(50, _MAX_WAITING - self.trim())
        return name

    def trim(self) -> int:
        """Delete events beyond the newest 500 and the last 72 hours: how many stay. Raises OSError."""
        events, oldest = self.names(_EVENT), f"{max(0, time.time() - _MAX_AGE) * 1e6:016.0f}"
        kept = [name for name in events[-_MAX_WAITING:] if name > oldest]
        for name in events[:len(events) - len(kept)]:
            _unlink(self.path(name))
        return len(kept)

    def tidy(self, client_id: str) -> None:
        """Give back claims of processes that are gone; delete what is delivered, old or foreign."""
        for name in self.names(_OURS):
            ending, stamp = name.rpartition(".")[2], name[:16]
            is_foreign = ending == "json" and name[17:25] != client_id[:8]
            # by its own stamp, where it has one, for the clock of a file server may be hours off
            age = abs(time.time() - int(stamp) / 1e6) if stamp.isdigit() else _age(self.path(name))
            if ending == "tmp":  # what corrects an event has the stamp of a wrong clock
                age = min(age, _age(self.path(name)))
            if is_foreign or age > _MAX_AGES[ending]:
                (self.give_back if ending == "claim" else self.delete)(name)

    def take(self, to: _Destination, own: Iterable[str]) -> tuple[str, dict[str, Any]]:
        """Move up to 25 waiting events into a claim, those named `own` first; its name and they by theirs."""
        claim = f"{to.key}-{os.getpid()}-{os.urandom(4).hex()}.claim"
        os.mkdir(self.path(claim), 0o700)
        events: dict[str, Any] = {}
        for name in sorted(self.waiting(to), key=lambda name: name not in own):
            if len(events) < _MAX_BATCH:
                with suppress(OSError):  # another process takes it first, or it can't be taken
                    event = self._load(name, to)
                    if event:
                        os.rename(self.path(name), self.path(claim, name))
                        events[name] = event
                        ahead = event["timestamp_micros"] - time.time_ns() // 1000
                        hours = (ahead - _HOUR // 60) // _HOUR + 1
                        if hours > 0:  # GA4 takes nothing of the future; clocks are ahead by hours as a rule
                            event["timestamp_micros"] -= hours * _HOUR
                            self._write(name, to, event, claim)  # so that it never changes again
                    else:
                        os.unlink(self.path(name))
        _stamp(self.path(claim))
        return claim, events

    def holds(self, claim: str, events: Iterable[str]) -> bool:
        """Whether a claim holds what it held; another process may have given it back, or deleted it."""
        return self.names(_EVENT, claim) == sorted(events)

    def _write(self, name: str, to: _Destination, event: dict[str, Any], *claim: str) -> None:
        record = {**{part: getattr(to, part) for part in _BOUND_TO}, "event": event}
        target = self.path(*claim, name)
        _store(self.path(name), json.dumps(record, allow_nan=False).encode(),
               lambda temporary, _: os.replace(temporary, target))

    def _load(self, name: str, to: _Destination) -> dict[str, Any] | None:
        """The event in a file; None if that is damaged or for another destination. Raises OSError."""
        try:
            record = _read_object(self.path(name))
            event, bound_to = record["event"], [record[part] for part in _BOUND_TO]
            is_ours = bound_to == [getattr(to, part) for part in _BOUND_TO] and isinstance(event, dict) and (
                type(event.get("timestamp_micros")) is int)
            return event if is_ours and len(json.dumps(event, allow_nan=False)) <= _MAX_EVENT else None
        except (ValueError, KeyError, RecursionError):
            return None

    def give_back(self, claim: str) -> None:
        """Let the events of a claim wait again."""
        with suppress(OSError):
            for name in self.names(_EVENT, claim):
                os.rename(self.path(claim, name), self.path(name))
            os.rmdir(self.path(claim))
            self.trim()

    def delete(self, name: str) -> None:
        """Delete a file, or a claim with its events, all or none: a kill must leave none to be sent again."""
        _unlink(self.path(name))  # what is no folder
        done = name.replace(".claim", ".sent")
        with suppress(OSError):
            _patiently(partial(os.rename, self.path(name), self.path(done)))
        for folder in {done, name}:  # Windows may refuse to rename it
            with suppress(OSError):  # of another user it can't even be listed
                for event in self.names(_EVENT, folder):
                    _unlink(self.path(folder, event))
                os.rmdir(self.path(folder))

    def clear(self, pattern: str = _OURS) -> None:
        """Delete what is ours and matches, then the folder if empty. Raises OSError if something stays."""
        for _ in range(4):  # another process may be writing into it just now
            for name in self.names(pattern):
                self.delete(name)
            with suppress(OSError):  # something of others may be in it
                os.rmdir(self._folder)
            if not self.names(pattern):
                return
            time.sleep(0.01)
        raise OSError(f"its outbox can't be emptied: {self._folder}")

    def paused(self, key: str) -> tuple[float, int]:
        """Until when (seconds since 1970; 0 for now) nothing is tried, and the failures in a row."""
        try:
            record = _read_object(self.path(key + ".pause"))
            until, failures = float(record["until"]), max(0, int(record["failures"]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return 0.0, 0
        left = until - time.time()  # more than a day: the clock was set back since
        return (until if 0 < left <= _LAST_PAUSE else 0.0), failures

    def pause(self, to: _Destination, asked: float) -> None:
        """Begin a pause of 10 minutes, doubled with each failure in a row, or of `asked` seconds if not 0."""
        until, failures = self.paused(to.key)
        if until and not asked:
            return  # another process failed together with us: that is one failure, not two
        seconds = asked or min(_FIRST_PAUSE * 2 ** min(failures, 8), _LAST_PAUSE)
        record = {"endpoint": _masked(to.endpoint), "until": time.time() + seconds, "failures": failures + 1}
        with suppress(OSError):
            _store(self.path(to.key + ".pause"), json.dumps(record).encode(), os.replace)


# === Sender: how does it leave? ===

_REQUEST_SECONDS = 1.0
_FAIR_SECONDS = 0.25   # a request cut shorter by the exit proves nothing, so none begins with less left
_MIN_STACK = 2 ** 18   # bytes; `threading.stack_size` may give a thread less, which would end the process
_KEPT_4XX = frozenset((407, 408, 425, 429))  # the proxy's or the moment's fault, not the events'
_NO_ANSWER: _Answer = (0, 0.0)


def _retry_seconds(text: str) -> float:
    """The seconds that a Retry-After header asks for, from one to a day's. Raises anything for rubbish."""
    from datetime import timezone  # loaded with the network code, as is the next
    from email.utils import parsedate_to_datetime
    if text.strip().isdigit():
        return min(max(float(text), 1.0), _LAST_PAUSE)
    date = parsedate_to_datetime(text)  # one of HTTP's forms names no zone, and means UTC
    seconds = (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - time.time()
    return min(max(seconds, 1.0), _LAST_PAUSE)


def _post(to: _Destination, events: list[dict[str, Any]], may_send: Callable[[], bool],
          cuts: _Calls) -> _Answer:
    """Send one request, if we still may once the connection stands: the caller bounds its time as a whole,
    and may call what it finds in `cuts` to end it."""
    import socket
    from http import client
    from urllib import request as urllib
    is_secure = to.endpoint.lower().startswith("https")
    kind: Any = client.HTTPSConnection if is_secure else client.HTTPConnection

    class Connection(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()  # which may take its time to look the name up
            # the method of a plain socket, for that of an SSLSocket has it go on without encryption
            cuts.append(partial(socket.socket.shutdown, self.sock, socket.SHUT_RDWR))
            if not may_send():
                raise TimeoutError("too late, or no longer allowed")

    # Proxies from the environment alone (asking macOS for its settings may crash a forked child), verified
    # certificates, no redirects, no exception for a status, and no debug output (0), whatever a host has set.
    opener, proxies = urllib.OpenerDirector(), urllib.getproxies_environment().items()
    opener.add_handler(urllib.ProxyHandler({name: url for name, url in proxies if name in ("http", "https")}))
    opener.add_handler(urllib.UnknownHandler())  # raises for a proxy of a kind that urllib does not speak
    more: dict[str, Any] = {}
    if is_secure:
        import ssl
        more["context"] = ssl.create_default_context()
    handler: Any = urllib.HTTPSHandler(0, **more) if is_secure else urllib.HTTPHandler(0)
    setattr(handler, "https_open" if is_secure else "http_open", partial(handler.do_open, Connection, **more))
    opener.add_handler(handler)
    url, headers, data = _request(to, events)
    try:
        with opener.open(urllib.Request(url, data, headers), None, _REQUEST_SECONDS) as response:
            wish = response.headers.get("Retry-After", "")
            return response.status, _quietly(partial(_retry_seconds, wish), 0.0)
    except (OSError, client.HTTPException, ValueError):
        return _NO_ANSWER


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Threads that begin in here leave signals to the host's; even SIGPIPE, by which a lost connection may
    end a process, but not those of a crash, which faulthandler reports."""
    import signal
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    crashes = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS,
               signal.SIGTRAP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - crashes)
        yield
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        finally:  # a handler may have raised before it
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


class _Signals:
    """Keeps signals that the host handles in Python from their handlers while we wait in a hook of a fork, in
    the main thread: what a handler raises there would be lost."""

    def __init__(self) -> None:
        self.came: list[tuple[int, int]] = []   # to which process, and its number
        self.handlers: dict[int, Any] = {}      # the host's, by number

    def _note(self, number: int, frame: object) -> None:
        self.came.append((os.getpid(), number))

    def hold(self) -> None:
        """Note the signals that come from now on."""
        import signal
        try:
            for number in signal.valid_signals():
                handler: Any = signal.getsignal(number)
                is_idle = getattr(handler, "__name__", "") == "_sighandler_noop"  # asyncio has a descriptor
                if callable(handler) and not is_idle and number not in self.handlers:
                    self.handlers[number] = handler
                    signal.signal(number, self._note)
        except ValueError:  # not in the main interpreter
            self.handlers.clear()

    def release(self) -> None:
        """Give the host its handlers back and, shortly afterwards, the signals that came to this process."""
        import signal
        try:
            while self.handlers:
                number = next(iter(self.handlers))
                if signal.getsignal(number) == self._note:  # else a hook of the host has set another one
                    signal.signal(number, self.handlers[number])
                del self.handlers[number]
        finally:
            if self.handlers:  # one that came just now raised
                self.release()
        numbers = [number for process, number in self.came if process == os.getpid()]
        main, self.came = threading.get_ident(), []

        def repeat() -> None:
            time.sleep(0.01)
            for number in numbers:
                if callable(signal.getsignal(number)):  # else it is too late for it
                    signal.pthread_kill(main, number)

        if numbers:
            with suppress(RuntimeError):  # no thread to be had
                threading.Thread(None, repeat, daemon=True).start()


class _Sender:
    """Sends what waits on two daemon threads of a process, which end when nothing is left to send.

    One decides; the other one posts, and may be left behind there: a name look-up or a TLS handshake can't
    be interrupted. The caller's thread starts both: since Python 3.12 none can be started once the main
    thread has ended.
    """

    def __init__(self, outbox: _Outbox, look: Callable[[], _Destination | None],
                 at_exit: Callable[[], None]) -> None:
        self.outbox = outbox
        self._look = look                       # where events may go now
        self._lock = threading.RLock()          # guards all below; reentrant, as signal handlers may record
        self._threads: list[threading.Thread] = []
        self._runs = False                      # whether the threads have something to do
        self._rests: set[int] = set()           # threads about to fork; then no request begins
        self._rested = False                    # whether something is to be sent after that
        self._signals = _Signals()              # those that come meanwhile
        self._loading = self._posting = False   # what they are doing: importing the network code, a request
        self._own: set[str] = set()             # events of this object that are not known to be delivered
        self._lost = False                      # one of them was refused or thrown away
        self._leave_by = float("inf")           # monotonic; until then the exit waits
        self._fair = _FAIR_SECONDS              # as long as the exit does not wait
        atexit.register(at_exit)
        if hasattr(os, "register_at_fork"):
            rest, resume = weakref.WeakMethod(self.rest), weakref.WeakMethod(self.resume)
            os.register_at_fork(before=lambda: (rest() or bool)(),  # noqa: PLW0108, for it may be gone
                                after_in_parent=lambda: (resume() or bool)(True),
                                after_in_child=lambda: (resume() or bool)(False))

    def record(self, to: _Destination, event: dict[str, Any]) -> str:
        """Put an event into the outbox, as one of this run: its name. Raises OSError, ValueError."""
        try:
            name = self.outbox.put(to, event)
        except (OSError, ValueError):
            self._lost = True
            raise
        with self._lock:
            if len(self._own) >= _MAX_WAITING:
                self._own, self._lost = set(), True
            self._own.add(name)
        return name

    def wake(self) -> None:
        """See to it that what waits is sent. Without a thread to be had it stays for the next run."""
        threads: list[threading.Thread] = []
        with self._lock:
            self._rested = self._rested or bool(self._rests)
            if (self._runs or self._rests or self._leave_by < float("inf") or sys.is_finalizing()
                    or 0 < threading.stack_size() < _MIN_STACK):
                return
            try:
                self._runs = True  # first of all, for a signal handler may record, and wake, meanwhile
                calls: _Calls = []
                called = threading.Semaphore(0)
                threads += [threading.Thread(None, work, "telemetry", (calls, called), daemon=True)
                            for work in (self._run, self._call)]
                self._threads = threads
                with _signals_blocked():
                    for thread in reversed(threads):
                        thread.start()
            except RuntimeError:
                pass  # none to be had
            finally:  # a signal handler may have raised anywhere, even in here
                self._runs = False
                self._runs = any(thread.is_alive() for thread in threads[:1])
                if threads and not self._runs:
                    if self._threads is threads:
                        self._threads = []
                    called.release()

    def _call(self, calls: _Calls, called: threading.Semaphore) -> None:
        """The thread that posts, until it is called for nothing."""
        while called.acquire() and calls:
            calls.pop()()

    def _run(self, calls: _Calls, called: threading.Semaphore) -> None:
        """The thread that decides, and ends the other one."""
        with self._lock:  # after `wake`, which may have been interrupted and have given us up
            is_wanted = threading.current_thread() in self._threads
        if is_wanted:
            _quietly(partial(self._send, calls, called), None)
        called.release()
        with self._lock:
            if threading.current_thread() in self._threads:
                self._runs = self._loading = self._posting = False

    def _send(self, calls: _Calls, called: threading.Semaphore) -> None:
        """Claim and post until nothing is left to send, or a request failed."""
        goes_on = True
        tried: list[str] = []
        while goes_on:
            to = self._look()
            if to:
                self.outbox.tidy(to.client_id)
            with self._lock:  # one step with the end of the threads, so that no event falls between
                names = self.outbox.waiting(to) if to else []
                left = self._leave_by - time.monotonic()
                rests = self._rests and tried
                if rests or left <= self._fair or left < float("inf") and self._own.isdisjoint(names):
                    self._rested = bool(rests and names)
                    names = []  # the exit waits for this run's events, and for no request that is cut short
                if not to or names in ([], tried):  # those that still wait after a turn can't be taken
                    self._runs = False
                    return
                tried = names
            self._loading = True  # some 50 ms, once in a process
            import encodings.idna  # noqa: F401, which a name look-up needs
            import urllib.request  # noqa: F401
            self._loading = False
            goes_on = self._deliver(to, calls, called)
            self._posting = False

    def _deliver(self, to: _Destination, calls: _Calls, called: threading.Semaphore) -> bool:
        """Claim and post up to 25 events and act on the answer; False if that failed."""
        def may_send() -> bool:
            return time.monotonic() < end and self.outbox.holds(claim, events) and to == self._look()

        def call() -> None:
            answers.append(_quietly(partial(_post, to, list(events.values()), may_send, cuts), _NO_ANSWER))
            answered.set()

        claim, events = self.outbox.take(to, self._own)
        began = time.monotonic()
        end, is_over = began + _REQUEST_SECONDS, False
        answers: list[_Answer] = []
        cuts: _Calls = []
        answered = threading.Event()
        self._posting = bool(events)
        if not events or self._leave_by - began <= self._fair or not may_send():
            self.outbox.give_back(claim)
            return True
        calls.append(call)
        called.release()
        while not answers and not is_over:  # and a look after the end: we may have been stopped
            is_over = time.monotonic() >= min(end, self._leave_by)
            answered.wait(0.02)
        answer = answers[0] if answers else None
        for cut in () if answer else cuts:
            _quietly(cut, None)  # so that the other thread ends
        if not answer and time.monotonic() - began < self._fair:
            return False  # Ctrl-C cut it too soon for a failure: its claim is left, as by a kill
        return self._settle(to, claim, events, answer or _NO_ANSWER)

    def _settle(self, to: _Destination, claim: str, events: dict[str, Any], answer: _Answer) -> bool:
        """Delete, drop or keep the events of a request that was answered so. Whether it delivered them."""
        status, asked = answer
        delivered = 200 <= status < 300
        if not delivered and self.outbox.holds(claim, events):  # else `disable` deleted it, or we slept
            self.outbox.pause(to, asked)
        if delivered or 400 <= status < 500 and status not in _KEPT_4XX:
            # before the files are gone, for whatever is gone counts as delivered
            self._lost = self._lost or not delivered and not self._own.isdisjoint(events)
            self.outbox.delete(claim)
            self._own.difference_update(events)
        else:
            self.outbox.give_back(claim)
        if delivered:
            self.outbox.delete(to.key + ".pause")
        return delivered

    def flush(self, timeout: float) -> bool:
        """Wait until all that this object recorded is delivered: True; False as soon as that can't be."""
        deadline = time.monotonic() + timeout
        while self._own:
            to, left = self._look(), deadline - time.monotonic()
            if to:
                self.outbox.tidy(to.client_id)  # another process may have died with an event of ours
            with self._lock:
                gone = self._own - self.outbox.present()
                self._own -= gone  # delivered by some process, if it still may and the ID is the same
                self._lost = self._lost or bool(gone) and (not to or to != self._look() or any(
                    name[17:25] != to.client_id[:8] for name in gone))
                if to and left > 0 and not self._own.isdisjoint(self.outbox.waiting(to)):
                    self.wake()
                    to = to if self._runs or self._rests else None
            if not to or left <= 0:
                break
            time.sleep(min(left, 0.01))
        return not (self._own or self._lost)

    def rest(self) -> None:
        """Before a fork, let the threads end if they do so soon: a lock that one of them holds, that of an
        import above all, would be held in the child for ever, and 3.12 and later warn of a fork beside it."""
        began = since = time.monotonic()
        self._rests.add(threading.get_ident())
        alive = list(filter(threading.Thread.is_alive, self._threads))
        if alive and _in_main_thread():
            self._signals.hold()
        while self._runs and any(map(threading.Thread.is_alive, self._threads[:1])):
            now = time.monotonic()
            if self._loading and now - began < 10:
                since = now
            elif self._signals.came or now - since > _REQUEST_SECONDS + 0.1:
                break
            time.sleep(0.005)
        for thread in alive:
            thread.join(0.05)  # one that ends; the other one may be stuck
            time.sleep(0.001)  # it has some last instructions before it
        for thread in self._threads:  # Linux counts it until it is gone
            for _ in range(30 if hasattr(thread, "native_id") and not thread.is_alive() else 0):
                if os.path.exists(f"/proc/self/task/{thread.native_id}"):
                    time.sleep(0.001)

    def resume(self, is_parent: bool) -> None:
        """After a fork let the signals come that came meanwhile, and go on in the parent. Since Python 3.13,
        which warns of a thread that begins here, that is left to the next event."""
        self._rests.discard(threading.get_ident())
        if not is_parent:
            self._rests.clear()
        if self._rested and not self._rests:
            self._rested = False
            if is_parent and sys.version_info < (3, 13):
                self.wake()
        if self._signals.handlers and _in_main_thread():
            self._signals.release()

    def leave(self, deadline: float) -> bool:
        """Let the threads send this run's events until the deadline, and nothing more. Whether they ran."""
        if self._own:
            with suppress(OSError):  # the last of many processes leaves no more than may wait
                self.outbox.trim()
        with self._lock:
            was_busy, now = self._runs, time.monotonic()
            self._fair = min(_FAIR_SECONDS, max(0.0, deadline - now) / 2 or _FAIR_SECONDS)
            self._leave_by = max(deadline, now) if self._own or self._posting else now
        # A thread in the middle of an import can't react; but PyPy may crash when it ends there.
        grace = 1.0 if sys.implementation.name == "pypy" and self._loading else 0.1
        for thread in self._threads:  # Ctrl-C in a join has CPython 3.9 to 3.12 take it for an ended one
            while (self._runs or thread.is_alive()) and time.monotonic() < self._leave_by + grace:
                thread.join(0.05)  # in slices, because Windows lets no Ctrl-C through a wait
            self._leave_by, grace = min(self._leave_by, time.monotonic()), 0.02  # the other one may be stuck
        return was_busy


# === Telemetry: what the tool calls ===

# All that is looked at before anything is recorded or sent.
_Situation = namedtuple("_Situation", "refusal debug config destination",
                        defaults=(_MISSING, _Destination("nobody", problem="it is off")))


def _say(name: str, text: str) -> bool:
    """Write to `stdout` or `stderr`, with `?` for what it can't print; False if it is closed or full."""
    def write() -> bool:
        stream: Any = getattr(sys, name)
        plain = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        if not "┌".encode(encoding, "ignore"):  # the frame of the notice
            plain = plain.translate(str.maketrans("┌─┐│└┘", "+-+|++"))
        data, raw = plain.encode(encoding, "replace"), getattr(getattr(stream, "buffer", None), "raw", None)
        if raw is None:  # no real stream
            stream.write(data.decode(encoding))
        stream.flush()
        while raw is not None and data:  # what stays in a buffer after an error fails again when the
            written = raw.write(data)  # interpreter ends, and changes the exit code
            if not written:  # it is full, and does not block
                return False
            data = data[written:]
        return True
    return _quietly(write, False)  # it may be the host's own object


def _notice(product: Product) -> str:
    """The first-run notice in its frame."""
    lines = ["", f"{product.name} collects anonymous usage data", "to help us improve the tool.", "",
             f"To disable: {product.command} telemetry disable",
             *[f"Learn more: {product.docs_url}"] * bool(product.docs_url), ""]
    width = max(map(len, lines)) + 3
    return "\n".join(["┌" + "─" * width + "┐", *(f"│{('  ' + line).ljust(width)}│" for line in lines),
                      "└" + "─" * width + "┘", ""])


def _shared(name: str, default: Any) -> Any:
    """What all copies of this file in a process share, on the one object that they all know."""
    return threading.main_thread().__dict__.setdefault(f"_telemetry_{name}", default)


def _next_stamp() -> int:
    """Now in microseconds since 1970, different from all others in this process."""
    taken, mine, now = _shared("stamps", {}), object(), time.time_ns() // 1000
    stamp = now + (os.getpid() - now) % 128  # so that processes started together don't meet in a microsecond
    while taken.setdefault(stamp, mine) is not mine:  # a signal handler or a fork could find a lock held
        stamp += 128
    for old in list(taken) if len(taken) % 1000 == 0 else ():
        if old < now - 10 ** 7:  # not one that a thread, held up since it took its `now`, may still want
            taken.pop(old, None)
    return stamp


def _never_raises(default: object) -> Callable[[_T], _T]:
    """Let a method of `Telemetry` return the default where it would raise; debug mode shows the error."""
    def decorate(method: Any) -> Any:
        @wraps(method)
        def guarded(self: Telemetry, /, *args: Any, **params: Any) -> Any:
            try:
                return method(self, *args, **params)
            except Exception as error:  # broad on purpose: telemetry never breaks its host
                kind = error.__class__  # no call, for the stack may be full, and the error holds objects
            try:
                if self._look().debug:
                    self._explain(f"unexpected {kind.__name__}")
            except Exception:  # the same
                pass
            return default
        return guarded
    return decorate


def _is_interrupted() -> bool:
    """Whether Ctrl-C ended the main module, and not what ran in a console of the host's own."""
    last = getattr(sys, "last_value", None)
    if not isinstance(last, KeyboardInterrupt) or not last.__traceback__:
        return False
    frame = last.__traceback__.tb_frame
    name, code = frame.f_globals.get("__name__"), frame.f_code
    is_console = code.co_name != "<module>" or re.match("<(?!stdin>|string>)", code.co_filename)
    return name == "runpy" or name == "__main__" and not is_console


class _Command:
    """What `Telemetry.command` returns."""

    def __init__(self, telemetry: Telemetry, params: dict[str, object]) -> None:
        self._telemetry, self._params, self._began = telemetry, params, time.monotonic()

    def update(self, /, **params: object) -> None:
        """Add what is known only later."""
        self._params.update(params)

    def __enter__(self) -> _Command:
        self._telemetry._wake()  # older events are sent while the tool works
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._telemetry._record_command(self._began, self._params, error)


class Telemetry:
    """Anonymous usage of one tool. No method raises, waits for the network or prints, except as documented.

    `version` is the tool's (letters, digits, `.+-_!`). `project` is the `telemetry` section of the project's
    own configuration, a mapping or None. `exit_wait` is how many seconds the interpreter's exit may wait.
    """

    def __init__(self, product: Product = CODEGEN, *, version: str = "unknown",
                 project: Mapping[str, object] | None = None, exit_wait: float = 1.0) -> None:
        self._product, self._project, self._exit_wait = product, project, _number(exit_wait) or 0
        self._version = version if re.fullmatch("[A-Za-z0-9.+!_-]{1,64}", _plain(version)) else "unknown"
        self._agent = f"{re.sub('[^A-Za-z0-9._-]', '-', product.command)}/{self._version}"
        self._path, self._ci = _config_path(product), is_ci()
        self._project_file, self._closed = _absolute(product.project_file), False
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
        self._record(_plain(event) or params.pop("event", ""), params)

    def command(self, name: str = "", /, flags: Iterable[str] = (), **params: object) -> _Command:
        """A context manager that times its block and records `command_executed`, and `error_occurred` if it
        failed. Its `update(**params)` adds what is known only later."""
        word = _plain(name) or params.pop("name", "")
        return _Command(self, {**params, "command": word, "flags": flags})

    @_never_raises(False)
    def flush(self, timeout: float = 1.0) -> bool:
        """Wait at most `timeout` seconds. True: all that this object recorded has been delivered."""
        return self._sender().flush(timeout)

    @_never_raises(False)
    def close(self, timeout: float = 1.0) -> bool:
        """Flush, then record nothing more: for hosts that end by `os._exit` or `os.exec*`."""
        began = time.monotonic()
        delivered, self._closed = self.flush(timeout), True
        atexit.unregister(self._at_exit)
        self._sender().leave(began + timeout)  # a request may be under way
        return delivered

    def _look(self, environ: Mapping[str, str] = os.environ, at_all: bool = False) -> _Situation:
        """Look at environment, project and config file; off by environment, at no file unless `at_all`."""
        product = self._product
        variables = ("DO_NOT_TRACK", product.env_prefix + "_DISABLED")
        refusal = next((variable for variable in variables if _is_set(environ, variable)), "")
        debug = _is_set(environ, product.env_prefix + "_DEBUG")
        if refusal and not at_all:
            return _Situation(refusal, debug)
        config = _read_config(self._path)
        projects = _projects(self._project, product.project_file, self._project_file)
        refusal = refusal or _refusal(projects, config, self._path)
        return _Situation(refusal, debug, config, _destination(product, environ, config, self._agent))

    def _sender(self) -> _Sender:
        """This process's sender."""
        process = os.getpid()
        if process not in self._senders:
            outbox = _Outbox(self._path and os.path.join(os.path.dirname(self._path), "outbox"))
            self._senders.setdefault(process, _Sender(
                outbox, lambda: self._open_way(self._look()), self._at_exit))
        return self._senders[process]

    def _record(self, event_name: object, params: Mapping[str, object], wake: bool = True) -> None:
        seen, event = self._look(), _plain(event_name)
        explain = self._explain if seen.debug else lambda line: None
        declared = self._product.events.get(event)
        if declared is not None and not (seen.refusal or self._closed):
            seen = self._introduced(seen)
        if seen.refusal or self._closed:
            return explain(f"telemetry is off: {seen.refusal or 'closed'}")
        if declared is None:
            return explain(f"dropped an event: {ascii(event)[:60]} is not declared")
        kept, dropped = _checked(declared, params)
        for line in dropped:
            explain(f"dropped a parameter of {event}: {line}")
        shaped = _event(event, kept, declared, self._version, self._ci, _next_stamp())
        if seen.debug:
            self._explain_request(seen.destination, shaped)
        elif not seen.destination.problem:  # else there is nobody to send it to
            name = self._sender().record(seen.destination, shaped)
            if not _read_config(self._path).enabled:  # by a `disable` of just now, which must leave nothing
                self._sender().outbox.clear(name)
            elif wake:
                self._wake(seen)

    @_never_raises(None)
    def _record_command(self, began: float, params: dict[str, object], error: BaseException | None) -> None:
        """Record a command that ended, and the error that ended it."""
        params = {"duration": round((time.monotonic() - began) * 1000), "success": True, **params}
        code: object = error
        if issubclass(type(error), SystemExit):
            code = _quietly(lambda: getattr(error, "code", 1), 1)
        elif _quietly(lambda: type(error).__name__, "") == "Exit":  # so click and typer end a command
            code = getattr(error, "exit_code", 1)
        wake = not issubclass(type(error), KeyboardInterrupt)  # who pressed Ctrl-C does not want to wait
        if code is None or issubclass(type(code), int) and code == 0:
            return self._record("command_executed", params, wake)
        self._record("command_executed", {**params, "success": False}, wake=False)
        failed = {"command": params["command"], "error_type": error_type(error)}
        return self._record("error_occurred", failed, wake)

    def _introduced(self, seen: _Situation) -> _Situation:
        """The situation after the config file was made and the notice was shown, if they were due."""
        self._is_first_run(seen.config)
        config = seen.config
        if config.client_id and (self._ci or config.notice_shown):
            return seen
        with suppress(OSError, ValueError):  # who doesn't get the file's lock leaves it to who has it
            if config is _MISSING:
                _create_config(self._product, self._path, True)
            # an enabled file without an ID means no event: then, and only then, we wait for who makes one now
            with _editing(self._path, 0.1 if config.enabled and not config.client_id else 0.0) as document:
                config = _interpreted(document)
                if config.enabled and not (self._ci or config.notice_shown) and _say(
                        "stderr", _notice(self._product)):
                    document["hasShownTelemetryNotice"] = True
        seen = self._look()
        has_place = seen.refusal or seen.config.client_id
        return seen if has_place else seen._replace(refusal=f"no place for {self._path}")

    def _is_first_run(self, config: _Config) -> bool:
        """Whether the notice is shown in this run, by this process or by one that ran beside it."""
        run_seconds = time.time() - _PROCESS_START + 0.01  # for the times of files are coarse
        is_first = _shared(f"first_run_{self._path}", not config.notice_shown)
        return bool(is_first or _age(self._path) < min(run_seconds, _STALE_SECONDS))

    def _open_way(self, seen: _Situation) -> _Destination | None:
        """Where events may go now; None for nowhere."""
        to = seen.destination
        if seen.refusal or seen.debug or to.problem or not to.client_id:
            return None
        # A user who has just been told must have the time to say no: this run's events wait for the next.
        # Whoever set the destination by environment variable knows, and CI shows no notice.
        is_told = seen.config.notice_shown and not self._is_first_run(seen.config)
        if to.source == "product" and not (self._ci or is_told):
            return None
        return None if self._sender().outbox.paused(to.key)[0] else to

    @_never_raises(None)
    def _wake(self, seen: _Situation | None = None) -> None:
        """Start sending the event just recorded, or what waits if nothing was `seen`; but not from an exit
        handler of the main thread, for nobody would wait."""
        to = self._open_way(seen or self._look())
        # asked by another thread, `is_alive` can disturb the main thread's end
        is_ending = _in_main_thread() and not threading.main_thread().is_alive()
        if to and not (is_ending or self._closed):
            sender = self._sender()
            if seen or sender.outbox.waiting(to) or sender.outbox.names(_CLAIM):  # perhaps of the dead
                sender.wake()

    def _at_exit(self) -> None:
        """Wait for this run's events; all copies and objects in this process share one deadline."""
        interrupted, busy = _is_interrupted(), True
        began = _shared("exit", [time.monotonic()])
        for wait in (0 if interrupted else self._exit_wait, 0):
            try:
                busy = _quietly(partial(self._sender().leave, began[0] + wait), False)
                break
            except (KeyboardInterrupt, SystemExit):  # of a signal handler
                began[0] = 0.0  # the others do not wait either
        if interrupted and busy and not hasattr(sys, "ps1"):  # which an interactive session has
            # CPython ends a process by SIGINT when Ctrl-C ended its main module, but forgets that when any
            # thread evaluates source text meanwhile, as the standard library does while it is imported. This
            # reminds it: run_eval_code_obj in https://github.com/python/cpython/blob/v3.13.0/Python/pythonrun.c
            with suppress(KeyboardInterrupt):
                exec("raise KeyboardInterrupt")

    def _explain(self, line: str) -> None:
        _say("stderr", f"[telemetry] {line}\n")

    def _explain_request(self, to: _Destination, event: dict[str, Any]) -> None:
        """Debug mode's way to deliver: show the request on standard error."""
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
    return kind if isinstance(kind, str) else "choice: " + ", ".join(kind)


def _variables(product: Product, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of ours that are set, and the effect of each."""
    prefix = product.env_prefix
    texts = [f"{prefix}_ENDPOINT", f"{prefix}_ID", f"{prefix}_API_SECRET"]
    effect = "sets the destination" if environ.get(texts[0], "").strip() else f"no effect without {texts[0]}"
    effects = {"DO_NOT_TRACK": "turns telemetry off", f"{prefix}_DISABLED": "turns telemetry off",
               f"{prefix}_DEBUG": "shows requests instead of sending them", **dict.fromkeys(texts, effect)}
    none = "no effect (empty, or a word for no)"
    return {name: effects[name] if _is_set(environ, name) or name in texts and environ[name].strip() else none
            for name in effects if name in environ}


def _status(product: Product, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Everything that `status` shows, as JSON types. Reads only."""
    telemetry = Telemetry(product)
    seen, outbox = telemetry._look(environ, at_all=True), telemetry._sender().outbox
    config, to = seen.config, seen.destination
    waiting: list[str] = []
    with suppress(OSError):
        waiting = sorted(name for name in outbox.present() if name[17:25] == (config.client_id or "none")[:8])
    paused = 0.0 if to.problem else outbox.paused(to.key)[0]
    in_project = [f'"telemetry": {{"enabled": false}} in {product.project_file}'] * bool(product.project_file)
    return {
        "enabled": not seen.refusal, "reason": seen.refusal or _ON,
        "anonymous_id": config.client_id, "ci": telemetry._ci, "learn_more": product.docs_url,
        "config_file": {"path": telemetry._path, "state": "does not exist yet" if config is _MISSING
                        else f"damaged: {config.problem}" if config.problem else "exists"},
        "destination": {"endpoint": "" if to.problem else _masked(to.endpoint), "source": to.source,
                        "measurement_id": "" if to.problem else to.measurement_id, "problem": to.problem},
        "waiting": {"events": len(waiting),
                    "since": _time_text(int(waiting[0][:16]) / 1e6) if waiting else None,
                    "next_attempt": _time_text(paused) if paused else None},
        "environment": _variables(product, environ),
        "collected": {event: {name: _kind_text(kind) for name, kind in params.items()}
                      for event, params in product.events.items()},
        "collected_with_every_event": dict(_COMMON_PARAMS), "kinds": dict(KINDS),
        "never_collected": list(NEVER_COLLECTED),
        "turn_off": [f"{product.command} telemetry disable", f"{product.env_prefix}_DISABLED=1",
                     "DO_NOT_TRACK=1", *in_project],
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
        rows = [f"{name}: {text(item)}" for name, item in value.items()] if isinstance(value, dict) else value
        yield from [""] * is_table + ([f"{title}:"] if is_table and rows else wrap(f"{title}: {text(value)}"))
        for row in rows if is_table else ():
            yield from wrap(f"  {row}")


def _decided(product: Product, enabled: bool) -> int:
    """`enable` and `disable`: write the user's decision, durably, and delete what waits. The exit code."""
    telemetry = Telemetry(product)
    path, outbox = telemetry._path, telemetry._sender().outbox
    before = _read_config(path)
    is_damaged = before.problem and before is not _MISSING
    try:
        try:
            if enabled and not before.enabled and before is not _MISSING:
                outbox.clear()  # an event may have come during the `disable`
            if is_damaged and not enabled:
                raise ValueError(f"{path} is damaged ({before.problem}) and left as it is, which says no")
            if is_damaged:
                _patiently(partial(os.replace, path, path + ".bak"))
            if before.problem:
                _create_config(product, path, enabled)
            with _editing(path, 2.0, durable=True) as document:
                document["telemetry"]["enabled"] = enabled
        finally:
            if not enabled:
                outbox.clear()
        outbox.clear(_PAUSE)
    except (OSError, ValueError, RecursionError) as error:
        _say("stderr", f"Could not enable telemetry: {error}\n" if enabled else
             f"Could not disable telemetry: {error}\n"
             f"This works instead: set {product.env_prefix}_DISABLED=1 in the environment.\n")
        return 1
    reason = telemetry.reason
    _say("stderr", "Telemetry is off. What waited to be sent is deleted.\n" if not enabled
         else f"Telemetry is enabled for this user, but still off here:\n{reason} says no.\n" if reason != _ON
         else "Telemetry is on. Thank you.\n")
    return 0


def main(argv: list[str] | None = None, *, product: Product = CODEGEN) -> int:
    """The command line: `status [--json]`, `enable`, `disable`. Facts go to standard output, messages to
    standard error. Returns 0 for done, 1 for could not, 2 for wrong usage; never raises SystemExit."""
    arguments = list(map(str, sys.argv[1:] if argv is None else argv))
    usage = _USAGE.format(command=product.command)
    if {"-h", "--help"} & set(arguments):
        _say("stdout", usage)
    elif arguments in (["enable"], ["disable"]):
        return _decided(product, arguments == ["enable"])
    elif sorted(arguments) in (["status"], ["--json", "status"]):
        status = _status(product)
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
