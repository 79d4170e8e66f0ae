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
- Only what `Product.events` declares leaves: no free text, path, message, user or host name can be in it.
- `track` writes one small file and returns; daemon threads send. A request takes a second at most, the exit
  waits `exit_wait` seconds at most, and after a failure nothing is tried for ten minutes and more.
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
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import (TYPE_CHECKING, Any, Callable, Dict, FrozenSet, Iterable, Iterator, List, Mapping,
                    NamedTuple, Optional, Set, TextIO, Tuple, TypeVar, Union)

if TYPE_CHECKING:
    from urllib.request import OpenerDirector

__all__ = ["CODEGEN", "Product", "Telemetry", "error_type", "input_source", "is_ci", "main"]
__version__ = "1.0.0"

# === Product: who is speaking? ===

Kind = Union[str, Tuple[str, ...], Mapping[str, Tuple[str, ...]]]
Events = Mapping[str, Mapping[str, Kind]]

INPUT_SOURCES = ("remote_url", "local_relative", "local_absolute")
ERROR_TYPES = ("configuration_error", "file_not_found", "network_error", "parse_error", "validation_error",
               "permission_error", "interrupted", "unknown_error")
# What each kind of parameter lets through, in the words of `status`.
KINDS = MappingProxyType({
    "flag": "true or false",
    "count": "a whole number",
    "milliseconds": "a whole number of milliseconds",
    "choice": "one of a fixed list of words, else other",
    "word": "a word the tool's author chose, else other",
    "words": "several of them, joined by commas",
    "options": "true, false, numbers and fixed words; other text becomes custom",
})
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = frozenset("0123456789")

# GA4's limits and reserved names for web streams, and the parameters that have a fixed type in every event:
# https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference?client_type=gtag
# https://support.google.com/analytics/answer/13316687 and https://github.com/googleanalytics/ga-dev-tools
_MAX_PARAMS, _MAX_NAME, _MAX_TEXT = 25, 40, 100
_COMMON_PARAMS = MappingProxyType({
    "cli_version": "the tool's version", "python_version": "such as 3.11.7", "os": "such as linux",
    "ci": "whether a CI service runs it", "session_id": "the second the process started",
    "engagement_time_msec": "the duration, at least 1"})
_RESERVED_PREFIXES = ("_", "firebase_", "ga_", "google_", "gtag.")
_RESERVED_EVENTS = frozenset("""
    ad_activeview ad_click ad_exposure ad_impression ad_query ad_reward adunit_exposure app_clear_data
    app_exception app_install app_remove app_store_refund app_update app_upgrade dynamic_link_app_open
    dynamic_link_app_update dynamic_link_first_open error firebase_campaign firebase_in_app_message_action
    firebase_in_app_message_dismiss firebase_in_app_message_impression first_open first_visit in_app_purchase
    notification_dismiss notification_foreground notification_open notification_receive notification_send
    os_update screen_view session_start user_engagement""".split())
# The last three can't hold what GA4 wants there: an array, and an amount that goes with a currency in
# capitals.
_RESERVED_PARAMS = frozenset(("firebase_conversion", "items", "value", "currency"))
_NUMBER_PARAMS = frozenset(("shipping", "tax", "level", "score"))
_TEXT_PARAMS = frozenset("""
    transaction_id affiliation coupon shipping_tier virtual_currency_name payment_type group_id character
    method search_term content_type item_id item_list_id item_list_name creative_name creative_slot
    location_id promotion_id promotion_name item_name achievement_id""".split())


def _name_problem(name: object, reserved: FrozenSet[str]) -> str:
    """Why GA4 would refuse this name of an event or parameter; empty if it takes it."""
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME:
        return f"must be a text of 1 to {_MAX_NAME} characters"
    if name[0] not in _LETTERS or not _LETTERS | _DIGITS | {"_"} >= set(name):
        return "must be letters, digits and _, and begin with a letter"
    is_reserved = name in reserved or name.startswith(_RESERVED_PREFIXES)
    return "is reserved by Google Analytics" if is_reserved else ""


def _kind_name(kind: Kind) -> str:
    return kind if isinstance(kind, str) else "options" if isinstance(kind, Mapping) else "choice"


def _checked_kind(where: str, kind: Any) -> Kind:
    """An unchangeable copy of a declared kind. Raises ValueError for anything that is none."""
    if isinstance(kind, Mapping):
        return MappingProxyType({key: _checked_words(f"{where}.{key}", kind[key]) for key in kind})
    if kind == "options":
        return MappingProxyType({})
    is_name = isinstance(kind, str) and kind in KINDS and kind != "choice"
    return kind if is_name else _checked_words(where, kind)


def _checked_words(where: str, words: Any) -> Tuple[str, ...]:
    """The words of a choice. Raises ValueError unless each is plain ASCII that fits a request."""
    if not isinstance(words, (tuple, list, set, frozenset)) or not words:
        raise ValueError(f"{where}: {words!r} is no kind; a choice is declared as a tuple of its words")
    for word in words:
        if not (isinstance(word, str) and 0 < len(word) <= _MAX_TEXT and word.isascii() and word.isprintable()
                and not {'"', "\\"} & set(word)):
            raise ValueError(f"{where}: {word!r} is not a word of 1 to {_MAX_TEXT} plain ASCII characters")
    return tuple(words)


def _checked_params(event: str, params: Mapping[str, Any]) -> Mapping[str, Kind]:
    """An unchangeable copy of one event's declaration. Raises ValueError for what GA4 would refuse."""
    problem = _name_problem(event, _RESERVED_EVENTS)
    if not problem and len(params) + len(_COMMON_PARAMS) > _MAX_PARAMS:
        problem = f"has over {_MAX_PARAMS} parameters with the {len(_COMMON_PARAMS)} that every event gets"
    if problem:
        raise ValueError(f"event {event!r} {problem}")
    checked: Dict[str, Kind] = {}
    for name, kind in params.items():
        problem = _name_problem(name, _RESERVED_PARAMS)
        checked[name] = _checked_kind(f"{event}.{name}", kind)
        kind_name = _kind_name(checked[name])
        if name in _COMMON_PARAMS:
            problem = "is added to every event"
        if name in _NUMBER_PARAMS and kind_name not in ("count", "milliseconds"):
            problem = "can only hold a number in Google Analytics"
        if name in _TEXT_PARAMS and kind_name not in ("choice", "word", "words"):
            problem = "can only hold a text in Google Analytics"
        if problem:
            raise ValueError(f"parameter {name!r} of event {event!r} {problem}")
    return MappingProxyType(checked)


class Product:
    """A tool's identity, immutable; every field is keyword-only.

    | field | what it is | default |
    | --- | --- | --- |
    | `name` | the name in the notice | `command` |
    | `command` | what users type, before `telemetry disable` | `codegen` |
    | `env_prefix` | of `<env_prefix>_DISABLED`, `_DEBUG`, `_ENDPOINT`, ... | `<COMMAND>_TELEMETRY` |
    | `directory` | folder of config file and outbox, below the home folder unless absolute | `.<command>` |
    | `docs_url` | the page that the notice names | none |
    | `endpoint` | where events go: an http(s) URL | Google Analytics 4 |
    | `tracking_id`, `api_secret` | GA4's measurement ID and its secret; nothing is sent without both | none |
    | `events` | `{event: {parameter: kind}}` | that of `CODEGEN` |
    | `project_file` | JSON file in the working directory whose `telemetry.enabled` may say no | none |

    Without `command` the defaults are those of `CODEGEN`. A kind is a name from `KINDS`; a choice is the
    tuple of its words; options are a mapping from an option to the words it may hold. Raises ValueError for
    an event that GA4 would refuse and for a malformed name, command, directory or prefix.
    """

    __slots__ = ("name", "command", "env_prefix", "directory", "docs_url", "endpoint", "tracking_id",
                 "api_secret", "events", "project_file")
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

    def __init__(self, *, name: Optional[str] = None, command: Optional[str] = None,
                 env_prefix: Optional[str] = None, directory: Optional[str] = None,
                 docs_url: Optional[str] = None, endpoint: Optional[str] = None,
                 tracking_id: Optional[str] = None, api_secret: Optional[str] = None,
                 events: Optional[Events] = None, project_file: Optional[str] = None) -> None:
        given = {field: value for field, value in locals().items() if field != "self" and value is not None}
        fields = {**_CODEGEN_FIELDS, **given}
        if fields["command"] != _CODEGEN_FIELDS["command"]:  # another tool has its own opt-out and folder
            slug = "".join(c if c in _LETTERS | _DIGITS else "-" for c in fields["command"]).strip("-")
            fields.update(name=fields["command"], env_prefix=slug.replace("-", "_").upper() + "_TELEMETRY",
                          directory="." + slug.lower(), docs_url="", project_file="")
            fields.update(given)
        for field in ("name", "command", "directory"):
            if not fields[field].strip(" .") or not fields[field].isprintable():
                raise ValueError(f"{field} must be a printable text, not {fields[field]!r}")
        prefix = fields["env_prefix"]
        if prefix[:1] in _DIGITS | {""} or not _LETTERS | _DIGITS | {"_"} >= set(prefix):
            raise ValueError(f"env_prefix must be the beginning of a variable's name, not {prefix!r}")
        fields["events"] = MappingProxyType({event: _checked_params(event, params)
                                             for event, params in fields["events"].items()})
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __setattr__(self, name: str, *value: object) -> None:
        raise AttributeError(f"a Product is immutable: make another one with another {name}")

    __delattr__ = __setattr__

    def __repr__(self) -> str:
        return f"<Product {self.command!r}>"  # never the secret


_INPUT_TYPES = ("asyncapi", "openapi", "jsonschema")
_CODEGEN_FIELDS: Mapping[str, Any] = MappingProxyType({
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
CODEGEN = Product()

# === Config file: what is remembered? ===

_MAX_FILE = 64 * 1024             # bytes; ours has 400, so a larger one is not ours
_MAX_PROJECT_FILE = 1024 * 1024   # bytes; a project's configuration may be long, and its "no" counts
_STALE_SECONDS = 10.0             # a lock, claim or temporary file this old belongs to a process that is gone
_T = TypeVar("_T")


class _Files(NamedTuple):
    """Where everything lies. `base` must exist; `folder` is made below it once there is something to keep."""
    base: str
    folder: str
    config: str
    outbox: str


def _files(product: Product) -> _Files:
    """The paths of this user; all empty when there is no home folder with an absolute path."""
    base, folder = os.path.expanduser("~"), os.path.expanduser(product.directory)
    if not os.path.isabs(folder):
        folder = os.path.join(base, folder)
    elif not folder.startswith(base + os.sep):
        base = os.path.dirname(folder)
    if not os.path.isabs(folder):
        return _Files("", "", "", "")
    return _Files(base, folder, os.path.join(folder, "config.json"), os.path.join(folder, "outbox"))


class _Config(NamedTuple):
    """What the config file says. `problem` is empty, or why the file can't be used."""
    problem: str
    enabled: bool = False
    client_id: str = ""
    endpoint: str = ""
    tracking_id: str = ""
    api_secret: str = ""
    notice_shown: bool = False


_MISSING = _Config("it does not exist")


def _read_small(path: str, limit: int = _MAX_FILE) -> bytes:
    """A regular file's bytes. Raises OSError; ValueError for other kinds, or over `limit` bytes."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    fd = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe must not wait for its writer
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a regular file")
        data = chunk = os.read(fd, limit + 1)
        while chunk and len(data) <= limit and len(data) != found.st_size:  # mostly one read is enough
            chunk = os.read(fd, limit + 1 - len(data))
            data += chunk
    finally:
        os.close(fd)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return data


def _finite(text: str) -> float:
    """The number; ValueError for what we could read but not write back: NaN, Infinity, 1e999."""
    number = float(text)
    if not abs(number) < float("inf"):
        raise ValueError(f"{text} is no number of JSON's")
    return number


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def _parse_object(data: bytes) -> Dict[str, Any]:
    """The JSON object in these bytes. Raises ValueError for anything else."""
    try:
        document = _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON, or nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    return document


_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def _is_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and set("".join(parts)) <= _HEX_DIGITS


def _interpreted(document: Dict[str, Any]) -> _Config:
    """The parts of a config file that we use. Raises ValueError when one of them has the wrong type."""
    section, notice = document.get("telemetry", {}), document.get("hasShownTelemetryNotice", False)
    if not isinstance(section, dict):
        raise ValueError("telemetry is not an object")
    texts = [section.get(key, "") for key in ("anonymousId", "endpoint", "trackingId", "apiSecret")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(notice, bool):
        raise ValueError("a value has the wrong type")
    if texts[0] and not _is_uuid(texts[0]):
        raise ValueError("telemetry.anonymousId is not a UUID")
    client_id, endpoint, tracking_id, api_secret = (text.strip() for text in texts)
    return _Config("", section.get("enabled") is True, client_id, endpoint, tracking_id, api_secret, notice)


def _read_config(path: str) -> _Config:
    """What the config file says. Never raises, never writes."""
    try:
        return _interpreted(_parse_object(_patiently(partial(_read_small, path))))
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING
    except OSError as error:
        return _Config(f"it can't be read: {error.strerror or 'unknown reason'}")
    except ValueError as error:
        return _Config(str(error))


def _patiently(call: Callable[[], _T]) -> _T:
    """The call's result. Windows refuses to open or replace a file that another process has open: there, and
    only there, we ask again for 100 ms."""
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
    """Make a file that must not exist yet, for its user only. Raises OSError and leaves nothing."""
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
    with suppress(OSError):
        os.unlink(path)


def _age(path: str) -> float:
    """Seconds since the file was written; of either sign, for clocks are set. 0 if it is gone."""
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return 0.0


@contextmanager
def _locked(path: str, wait: float) -> Iterator[None]:
    """Hold `<path>.lock`. Raises TimeoutError when another process keeps it for `wait` seconds, OSError if it
    can't be made. Who slept so long that the lock was broken is stopped by the comparison in
    `_update_config`."""
    lock, token, deadline = path + ".lock", _unique().encode(), time.monotonic() + wait
    while True:
        try:
            _write_new(lock, token)
            break
        except FileExistsError:
            if abs(_age(lock)) > _STALE_SECONDS:
                with suppress(FileNotFoundError):
                    os.unlink(lock)
            elif time.monotonic() >= deadline:
                raise TimeoutError(errno.EAGAIN, "another process is changing it", path) from None
            else:
                time.sleep(0.01)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            if _read_small(lock) == token:
                os.unlink(lock)


@contextmanager
def _prepared(path: str, document: Dict[str, Any], durable: bool) -> Iterator[str]:
    """The document in a temporary file beside `path`. Those of killed processes are removed."""
    folder, name = os.path.split(path)
    for entry in os.listdir(folder):
        if entry.startswith(name + ".") and entry.endswith(".tmp"):
            if abs(_age(os.path.join(folder, entry))) > _STALE_SECONDS:
                _unlink(os.path.join(folder, entry))
    temporary = f"{path}.{_unique()}.tmp"
    _write_new(temporary, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode(), durable)
    try:
        yield temporary
    finally:
        _unlink(temporary)
        if durable:
            with suppress(OSError):  # Windows opens no folders
                fd = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)


def _now_text(seconds: Optional[float] = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _new_id() -> str:
    import uuid  # needed once in the life of a config file
    return str(uuid.uuid4())


def _create_config(product: Product, files: _Files, enabled: bool, durable: bool = False) -> bool:
    """Create the config file unless it exists; True for the one process that did. Raises OSError."""
    if not os.path.isdir(files.base):
        raise FileNotFoundError(errno.ENOENT, "there is no home folder", files.base)
    path = os.path.realpath(files.config)
    os.makedirs(files.folder, 0o700, exist_ok=True)
    section = {"enabled": enabled, "anonymousId": _new_id(), "endpoint": product.endpoint,
               "trackingId": product.tracking_id}
    document = {"version": "1.0.0", "telemetry": section, "hasShownTelemetryNotice": False,
                "lastUpdated": _now_text()}
    with _prepared(path, document, durable) as temporary:
        try:
            os.link(temporary, path)  # complete and exclusive in one step
        except FileExistsError:
            return False
        except (OSError, AttributeError, NotImplementedError):  # a file system without hard links
            with _locked(path, 0.5):
                if os.path.lexists(path):
                    return False
                os.replace(temporary, path)
    return True


def _update_config(path: str, change: Callable[[Dict[str, Any]], bool], wait: float = 0.0) -> None:
    """Read, change and replace the config file under its lock. `change` edits the document and returns False
    to leave the file alone. With `wait` (the user asked for it) the change is made durable. Raises OSError,
    ValueError."""
    path = os.path.realpath(path)
    with _locked(path, wait):
        for _ in range(10 if wait else 1):
            before = _read_small(path)
            document = _parse_object(before)
            if not change(document):
                return
            document["lastUpdated"] = _now_text()
            with _prepared(path, document, wait > 0) as temporary:
                # Who writes without the lock, or slept through its end, must not be undone and must not undo.
                if _read_small(path) == before:
                    return _patiently(partial(os.replace, temporary, path))
        raise OSError(errno.EBUSY, "another program keeps changing it", path)


# === Consent: may we send, and who decided? ===

_NO_WORDS = frozenset(("", "0", "false", "no", "off"))
_ON = "on by default"


def _is_set(environ: Mapping[str, str], variable: str) -> bool:
    """Whether a variable is set to anything but a word for no. Undecodable bytes count as set."""
    value = environ.get(variable)
    return value is not None and value.strip().lower() not in _NO_WORDS


def _environment_refusal(product: Product, environ: Mapping[str, str]) -> str:
    """The variable that switches telemetry off, or an empty text."""
    variables = ("DO_NOT_TRACK", product.env_prefix + "_DISABLED")
    return next((variable for variable in variables if _is_set(environ, variable)), "")


def _refusal(project: object, config: _Config, files: _Files) -> str:
    """Who says no first: project, config file, no place for one; empty if nobody does."""
    if project is False or isinstance(project, Mapping) and project.get("enabled", True) is not True:
        return "project"
    if config is not _MISSING:
        return "" if config.enabled else files.config
    is_made = os.path.lexists(files.folder)
    place = os.path.dirname(os.path.realpath(files.config)) if is_made else files.base
    if place and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK):
        return ""
    return f"no place for {files.config or 'a config file'}"


def _project_section(product: Product, given: object) -> object:
    """The `telemetry` section the host passed, or that of the project file here; None if there is none."""
    if given is not None or not product.project_file:
        return given
    try:
        data = _read_small(product.project_file, _MAX_PROJECT_FILE)
        return _parse_object(data[3:] if data[:3] == b"\xef\xbb\xbf" else data).get("telemetry")
    except (OSError, ValueError):
        return None  # one that can't be read is no answer


# === Context: where are we running? ===

# A variable that a continuous integration service sets, and the service: first the documented nine, then the
# generic ones, then others that may not set CI. Names as in
# https://github.com/watson/ci-info/blob/master/vendors.json
CI_VARIABLES = (
    ("GITHUB_ACTIONS", "GitHub Actions"), ("GITLAB_CI", "GitLab CI"), ("CIRCLECI", "CircleCI"),
    ("TRAVIS", "Travis CI"), ("JENKINS_URL", "Jenkins"), ("BITBUCKET_BUILD_NUMBER", "Bitbucket Pipelines"),
    ("CODEBUILD_BUILD_ID", "AWS CodeBuild"), ("TEAMCITY_VERSION", "TeamCity"), ("BUILDKITE", "Buildkite"),
    ("CI", "any that says so"), ("CONTINUOUS_INTEGRATION", "any that says so"),
    ("TF_BUILD", "Azure Pipelines"), ("APPVEYOR", "AppVeyor"), ("bamboo_planKey", "Bamboo"),
    ("BITRISE_IO", "Bitrise"), ("BUDDY_WORKSPACE_ID", "Buddy"), ("CF_BUILD_ID", "Codefresh"),
    ("CIRRUS_CI", "Cirrus CI"), ("DRONE", "Drone"), ("GO_PIPELINE_LABEL", "GoCD"),
    ("HARNESS_BUILD_ID", "Harness"), ("HEROKU_TEST_RUN_ID", "Heroku CI"), ("HUDSON_URL", "Hudson"),
    ("NETLIFY", "Netlify"), ("PROW_JOB_ID", "Prow"), ("SCREWDRIVER", "Screwdriver"),
    ("SEMAPHORE", "Semaphore"), ("TASKCLUSTER_ROOT_URL", "Taskcluster"), ("VELA", "Vela"),
    ("WOODPECKER_CI", "Woodpecker"), ("XCS", "Xcode Server"),
)
_PROCESS_START = int(time.time())  # seconds since 1970; GA4's session id
_PYTHON_VERSION = "%d.%d.%d" % sys.version_info[:3]
# The category of an exception by the name of its class or of a base class: so none of them has to be
# imported.
_ERROR_NAMES = MappingProxyType({name: category for category, names in {
    "configuration_error": "ConfigError ConfigurationError NoSectionError NoOptionError InterpolationError",
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
    """The characters of a text as an exact `str`; empty for anything else."""
    # by the real type, and by no method of the object's own: both may lie
    return str.__getitem__(value, slice(None)) if issubclass(type(value), str) else ""  # type: ignore[index]


def is_ci(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a continuous integration service runs us, by the variables it sets. `CI=false` is not CI."""
    return any(_is_set(environ, variable) for variable, _ in CI_VARIABLES)


def input_source(value: object) -> str:
    """Where an input lies: "remote_url", "local_relative" or "local_absolute". Never raises, touches no file.

    Windows drives and UNC paths are absolute on every system, and so are `file:` URLs and `~`.
    """
    text = value
    with suppress(Exception):  # the host's own object: whatever it raises, there is no path in it
        text = os.fsdecode(value)  # type: ignore[arg-type]
    text = _plain(text)
    scheme, colon, rest = text.strip().partition(":")
    if colon and len(scheme) > 1 and rest.startswith("/") and _LETTERS | _DIGITS | set("+.-") >= set(scheme):
        return "local_absolute" if scheme.lower() == "file" else "remote_url"
    is_drive = colon and len(scheme) == 1 and scheme in _LETTERS
    return "local_absolute" if is_drive or scheme.startswith(("/", "\\", "~")) else "local_relative"


def error_type(exc: object) -> str:
    """The category of an exception (one of `ERROR_TYPES`), from its type and never from its message. Never
    raises."""
    bases = (exc if isinstance(exc, type) else type(exc)).__mro__
    names = [base.__name__ if base.__module__ != "configparser" else "ConfigError" for base in bases]
    return next((_ERROR_NAMES[name] for name in names if name in _ERROR_NAMES), "unknown_error")


# === Events: what may leave? ===

Value = Union[bool, int, float, str]
_MAX_NUMBER = 10 ** 9
_MAX_ITEMS = 100               # of a list or mapping that we look at: it may be endless
_WORD_LETTERS = _LETTERS | _DIGITS | {"-", "_"}
_MAX_WORD, _MAX_WORD_DIGITS = 32, 3  # too short for a path or a sentence, too few digits for an identifier


def _word(value: object) -> str:
    text = _plain(value)
    fits = 0 < len(text) <= _MAX_WORD and text[0].islower() and _WORD_LETTERS >= set(text)
    return text if fits and sum(letter in _DIGITS for letter in text) <= _MAX_WORD_DIGITS else "other"


def _words(value: Any) -> str:
    """Words joined by commas, in their order and once each; cut to GA4's 100 characters at a comma."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        value = () if value is None else (value,)
    flags = (_plain(item)[:_MAX_FILE].lstrip("-").partition("=")[0] for item in islice(value, _MAX_ITEMS))
    text = ",".join(dict.fromkeys(map(_word, flags))) or "none"
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT + 1].rpartition(",")[0]


def _number(value: Any) -> Optional[Union[int, float]]:
    """The number if it is one, finite, from 0 to 10^9, and no bool."""
    if type(value) is bool or not issubclass(type(value), (int, float)):
        return None
    number = float.__add__(value, 0.0) if issubclass(type(value), float) else int.__add__(value, 0)
    return number if 0 <= number <= _MAX_NUMBER else None  # false for NaN and the infinities too


def _options(name: str, value: object, declared: Mapping[str, Tuple[str, ...]]) -> Dict[str, Value]:
    """One parameter an option: `<name>_<option>`. Nested values and odd names are left out."""
    flat: Dict[str, Value] = {}
    for option, held in islice(value.items(), _MAX_ITEMS) if isinstance(value, Mapping) else ():
        option, number = _plain(option), _number(held)
        flat_name = f"{name}_{option.replace('-', '_')}"
        if _word(option) != option or _name_problem(flat_name, _NUMBER_PARAMS | _TEXT_PARAMS):
            continue
        if held is True or held is False or number is not None:
            flat[flat_name] = held if number is None else number
        elif issubclass(type(held), str):
            flat[flat_name] = _plain(held) if _plain(held) in declared.get(option, ()) else "custom"
    return flat


def _shaped(name: str, kind: Kind, value: object) -> Dict[str, Value]:
    """The parameters that may leave for one that was passed; none if it has to be dropped."""
    if isinstance(kind, Mapping):
        return _options(name, value, kind)
    if isinstance(kind, tuple):
        return {name: _plain(value) if _plain(value) in kind else "other"}
    if kind == "flag":
        return {name: value} if value is True or value is False else {}
    if kind in ("count", "milliseconds"):
        number = _number(value)
        return {} if number is None else {name: round(number)}
    return {name: _words(value) if kind == "words" else _word(value)}


def _checked(declared: Mapping[str, Kind],
             params: Mapping[str, object]) -> Tuple[Dict[str, Value], List[str]]:
    """What may leave of these parameters, and the names of those dropped."""
    kept: Dict[str, Value] = {}
    dropped = [name for name in params if name not in declared]
    room = _MAX_PARAMS - len(_COMMON_PARAMS) - len(declared) + 1  # for options
    for name in filter(params.__contains__, declared):
        shaped: Dict[str, Value] = {}
        with suppress(Exception):  # the host's own object may raise anything while we look into it
            shaped = _shaped(name, declared[name], params[name])
        if not shaped:
            dropped.append(name)
        kept.update(islice(((key, shaped[key]) for key in shaped if key not in kept), room))
    return kept, dropped


def _event(name: str, params: Dict[str, Value], declared: Mapping[str, Kind], version: str, ci: bool,
           stamp: int) -> Dict[str, Any]:
    """The event as GA4 takes it. `stamp` is the moment of recording in microseconds since 1970."""
    spent = [int(params[key]) for key, kind in declared.items() if kind == "milliseconds" and key in params]
    return {"name": name, "timestamp_micros": stamp, "params": {
        **params, "cli_version": version, "python_version": _PYTHON_VERSION, "os": sys.platform, "ci": ci,
        "session_id": _PROCESS_START, "engagement_time_msec": max(1, *spent[:1], 1)}}


def _clean_version(version: object) -> str:
    """A version of letters, digits and `.+-_!`, at most 64 long; "unknown" for anything else."""
    text = _plain(version)
    return text if 0 < len(text) <= 64 and _WORD_LETTERS | set(".+!") >= set(text) else "unknown"


# === Wire: what does it look like outside? ===

class _Destination(NamedTuple):
    """Where events go. `source` is who named it; `problem` is empty or says why there is no destination."""
    source: str
    endpoint: str = ""
    measurement_id: str = ""
    api_secret: str = ""
    problem: str = ""

    @property
    def key(self) -> str:
        """Eight hexadecimal digits that stand for endpoint and measurement ID in the names of files."""
        from zlib import crc32  # an extension module that a run without telemetry need not load
        return "%08x" % crc32(f"{self.endpoint}\n{self.measurement_id}".encode())


def _url_problem(url: str) -> str:
    """Why this can't be an endpoint; empty if it can. `urllib.parse` would take its time to load."""
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
    if not host.strip("[") or port and not (set(port) <= _DIGITS and len(port) <= 5 and int(port) < 65536):
        return "its host or port is missing or malformed"
    return ""


def _destination(product: Product, environ: Mapping[str, str], config: _Config) -> _Destination:
    """The first that is set; an ID and a secret stay with the endpoint that they came with."""
    variables = (product.env_prefix + ending for ending in ("_ENDPOINT", "_ID", "_API_SECRET"))
    named = [environ.get(variable, "").strip() for variable in variables]
    placeholder = _CODEGEN_FIELDS["tracking_id"]
    if named[0]:
        found = _Destination("environment", *named)
    elif config.endpoint and (config.endpoint, config.tracking_id or product.tracking_id) not in (
            (product.endpoint, product.tracking_id), (product.endpoint, placeholder)):
        found = _Destination("config file", config.endpoint, config.tracking_id, config.api_secret)
    else:  # the config file holds a copy of the product's endpoint and ID; a secret beside it belongs to them
        beside = config.api_secret if config.tracking_id == product.tracking_id else ""
        secret = product.api_secret or beside
        found = _Destination("product", product.endpoint, product.tracking_id, secret)
        if found.measurement_id in ("", placeholder) or not secret:
            return found._replace(problem=f"{product.command} has no measurement ID and secret of its own")
    problem = _url_problem(found.endpoint)
    if not problem and not (found.measurement_id + found.api_secret).isprintable():
        problem = "its ID or secret has characters that can't be sent"
    return found._replace(problem=problem and f"the {found.source}'s endpoint can't be used: {problem}")


def _masked(url: str) -> str:
    """The URL without its fragment and with the value of any `api_secret` as `***`."""
    base, mark, query = url.partition("#")[0].partition("?")
    return base + mark + "&".join("api_secret=***" if part.lower().startswith("api_secret=") else part
                                  for part in query.split("&"))


class _Route(NamedTuple):
    """On whose behalf events go where."""
    destination: _Destination
    client_id: str
    user_agent: str


class _Request(NamedTuple):
    """One POST."""
    url: str
    headers: Dict[str, str]
    body: bytes


def _request(route: _Route, events: List[Dict[str, Any]]) -> _Request:
    """The request that delivers these events, at most 25 of them."""
    from urllib.parse import quote  # only where something is about to be sent or shown
    base, mark, query = route.destination.endpoint.partition("#")[0].partition("?")
    parts = [part for part in query.split("&") if part]
    for name, value in (("measurement_id", route.destination.measurement_id),
                        ("api_secret", route.destination.api_secret)):
        parts += [f"{name}={quote(value, safe='')}"] if value else []
    body = json.dumps({"client_id": route.client_id, "events": events}, allow_nan=False).encode("ascii")
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)),
               "User-Agent": route.user_agent}
    return _Request(base + ("?" if parts else mark) + "&".join(parts), headers, body)


# === Outbox: what waits? ===

_MAX_WAITING = 500
_MAX_AGE = 72 * 3600.0     # seconds; GA4 takes no older events
_MAX_BATCH = 25            # GA4's limit of events a request
_MAX_EVENT = 5000          # bytes; 25 of them stay below GA4's 130 kB
_LEAD_SECONDS = 0.3        # without a sign of life, the sending process is gone and another one sends
_FIRST_PAUSE, _LAST_PAUSE = 600.0, 86400.0  # seconds without a try after a failure


class _Claim(NamedTuple):
    """Events that this process alone may send: their files, moved into a folder of ours."""
    folder: str
    events: Dict[str, Dict[str, Any]]  # by file name


def _stem(micros: int, client_id: str, key: str) -> str:
    """The name of an event's file, without its ending. Sorting names sorts by time."""
    return f"{micros:016d}-{client_id[:8]}-{key}-{os.urandom(4).hex()}"


def _stamp(name: str) -> float:
    """The moment of recording in seconds that an event's file name tells; -1 if it is no such name."""
    stem, _, ending = name.partition(".")
    is_ours = [len(part) for part in stem.split("-")] == [16, 8, 8, 8] and set(stem[:16]) <= _DIGITS
    return int(stem[:16]) / 1e6 if is_ours and ending in ("json", "tmp") else -1.0


class _Outbox:
    """Events that wait on disk, shared by every process of a user; renaming is the only lock.

    | name | what it is |
    | --- | --- |
    | `<microseconds>-<client>-<destination>-<random>.json` | an event that waits |
    | the same with `.tmp` | a file being written |
    | `<milliseconds>-<process>.claim/` | events being sent; given back when older than 10 s |
    | `<milliseconds>-<process>.sent/` | delivered events being deleted |
    | `<destination>.sender` | the sign of life of the one process that sends |
    | `<destination>.pause` | when a destination failed, and how often |
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known: List[str] = []  # names of waiting events, oldest first; some may be gone

    def path(self, *names: str) -> str:
        return os.path.join(self._folder, *names)

    def _list(self, folder: str = "", ending: str = "") -> List[str]:
        with suppress(OSError):
            return sorted(name for name in os.listdir(self.path(folder)) if name.endswith(ending))
        return []

    def waiting(self, client_id: str, key: str = "") -> List[str]:
        """Names of waiting events, oldest first, of this client and destination (of any: no `key`)."""
        return [name for name in self._list("", ".json")
                if _stamp(name) >= 0 and name[17:25] == client_id[:8] and key in ("", name[26:34])]

    def present(self) -> Set[str]:
        """Names of all events that wait or are being sent by some process."""
        return {name for folder in ("", *self._list("", ".claim")) for name in self._list(folder, ".json")}

    def put(self, route: _Route, event: Dict[str, Any]) -> str:
        """Write an event, complete or not at all, and return its name. Raises OSError, ValueError."""
        name = _stem(event["timestamp_micros"], route.client_id, route.destination.key) + ".json"
        destination = route.destination
        self._write(name, {"endpoint": destination.endpoint, "measurement_id": destination.measurement_id,
                           "client_id": route.client_id, "event": event})
        self._known.append(name)
        if len(self._known) % 50 == 1 or len(self._known) > _MAX_WAITING:  # a look costs time
            self._known = self._list("", ".json")
        while len(self._known) > _MAX_WAITING:
            _unlink(self.path(self._known.pop(0)))
        return name

    def _write(self, name: str, record: Dict[str, Any]) -> None:
        temporary = self.path(_stem(time.time_ns() // 1000, "0" * 8, "0" * 8) + ".tmp")
        data = json.dumps(record, allow_nan=False).encode("ascii")
        try:
            _write_new(temporary, data)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)
            _write_new(temporary, data)
        try:
            _patiently(partial(os.replace, temporary, self.path(name)))
        except OSError:
            _unlink(temporary)
            raise

    def lead(self, key: str) -> bool:
        """Become the process that sends to a destination: one loads the network code and takes along what the
        others recorded. False while another one shows signs of life. Raises OSError."""
        path = self.path(key + ".sender")
        if abs(_age(path)) > _LEAD_SECONDS:
            _unlink(path)
        try:
            _write_new(path, b"")
        except FileExistsError:
            return False
        return True

    def sign_life(self, key: str) -> None:
        with suppress(OSError):
            os.utime(self.path(key + ".sender"))

    def resign(self, key: str) -> None:
        _unlink(self.path(key + ".sender"))

    def claim(self, route: _Route, own: Iterable[str], only_own: bool) -> Optional[_Claim]:
        """Take up to 25 waiting events, those named `own` first; None if there are none."""
        self._tidy(route.client_id)
        names = dict.fromkeys(self.waiting(route.client_id, route.destination.key))
        first = [name for name in own if name in names]
        if not names or only_own and not first:
            return None
        claim = _Claim(f"{time.time_ns() // 10 ** 6}-{_unique()}.claim", {})
        os.mkdir(self.path(claim.folder), 0o700)
        for name in dict.fromkeys([*first, *names]):
            if len(claim.events) < _MAX_BATCH:
                with suppress(OSError):  # another process was faster
                    os.rename(self.path(name), self.path(claim.folder, name))
                    event = self._load(self.path(claim.folder, name), route)
                    if event is None:
                        _unlink(self.path(claim.folder, name))
                    else:
                        claim.events[name] = event
        if not claim.events:
            self._delete(claim.folder)
        return claim if claim.events else None

    def _load(self, path: str, route: _Route) -> Optional[Dict[str, Any]]:
        """The event in a file; None if that is damaged or was recorded for another destination."""
        try:
            record = _parse_object(_read_small(path))
        except ValueError:
            return None
        bound_to = (record.get("endpoint"), record.get("measurement_id"), record.get("client_id"))
        event = record.get("event")
        is_ours = bound_to == (route.destination.endpoint, route.destination.measurement_id, route.client_id)
        return event if is_ours and isinstance(event, dict) and len(json.dumps(event)) <= _MAX_EVENT else None

    def _tidy(self, client_id: str) -> None:
        """Give back claims of processes that are gone; delete what is delivered, old or foreign."""
        now = time.time()
        for name in self._list():
            stem, _, ending = name.rpartition(".")
            began, stamp = stem.partition("-")[0], _stamp(name)
            if stamp >= 0:
                is_foreign = ending == "json" and name[17:25] != client_id[:8]
                if is_foreign or abs(now - stamp) > (_STALE_SECONDS if ending == "tmp" else _MAX_AGE):
                    _unlink(self.path(name))
            elif ending == "sent":
                self._delete(name)
            elif ending == "claim" and began.isdigit() and abs(now - int(began) / 1000) > _STALE_SECONDS:
                self.give_back(self.renew(name))
            elif ending == "sender" and abs(_age(self.path(name))) > _STALE_SECONDS:
                _unlink(self.path(name))
            elif ending == "pause" and now > self._pause(stem)[0] + _MAX_AGE:
                _unlink(self.path(name))

    def renew(self, claim: str) -> str:
        """The claim under a fresh name of ours; an empty text if it is someone else's by now."""
        fresh = f"{time.time_ns() // 10 ** 6}-{_unique()}.claim"
        with suppress(OSError):
            os.rename(self.path(claim), self.path(fresh))
            return fresh
        return ""

    def give_back(self, claim: str) -> None:
        """Let the events of a claim wait again."""
        for name in self._list(claim, ".json") if claim else ():
            with suppress(OSError):
                os.rename(self.path(claim, name), self.path(name))
        self._delete(claim)

    def finish(self, claim: str) -> None:
        """Delete a claim's events, all or none: none may be left by a kill to be sent again."""
        done = claim.rpartition(".")[0] + ".sent"
        with suppress(OSError):
            os.rename(self.path(claim), self.path(done))
        self._delete(done)

    def _delete(self, folder: str) -> None:
        for name in self._list(folder) if folder else ():
            _unlink(self.path(folder, name))
        with suppress(OSError):
            os.rmdir(self.path(folder)) if folder else None

    def clear(self) -> None:
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

    def _pause(self, key: str) -> Tuple[float, int]:
        """Until when (seconds since 1970) nothing is tried, after how many failures; zeros for none."""
        try:
            record = _parse_object(_read_small(self.path(key + ".pause")))
            since, seconds, failures = (float(record[part]) for part in ("since", "seconds", "failures"))
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0, 0
        if since > time.time() + 1:
            return 0.0, 0  # the clock was set back since: better one try than a pause for years
        return since + min(seconds, _LAST_PAUSE), int(min(failures, 99))

    def paused_until(self, key: str) -> float:
        """Until when (seconds since 1970) this destination is left alone; 0 if it isn't."""
        until = self._pause(key)[0]
        return until if until > time.time() else 0.0

    def pause(self, destination: _Destination, asked: Optional[float]) -> None:
        """Begin a pause of 10 minutes, doubled with each failure in a row, or of `asked` seconds."""
        failures = self._pause(destination.key)[1]
        if asked is None and self.paused_until(destination.key):
            return  # another process failed together with us: that is one failure, not two
        seconds = min(_FIRST_PAUSE * 2 ** min(failures, 8), _LAST_PAUSE) if asked is None else asked
        with suppress(OSError):
            self._write(destination.key + ".pause", {
                "endpoint": _masked(destination.endpoint), "since": time.time(), "seconds": seconds,
                "failures": failures + 1})

    def resume(self, key: str = "") -> None:
        """Forget the pause of this destination, or of all."""
        for name in self._list("", key + ".pause"):
            _unlink(self.path(name))


# === Sender: how does it leave? ===

_REQUEST_SECONDS = 1.0
_FAIR_SECONDS = 0.25   # a request cut shorter by the exit proves nothing, so none begins with less left
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


def _opener(endpoint: str) -> OpenerDirector:
    """An opener of our own: proxies from the environment alone (asking macOS for its settings may crash a
    forked child), certificates verified, no redirects, no errors raised for a status."""
    import ssl
    from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, getproxies_environment
    proxies = getproxies_environment()
    opener = OpenerDirector()
    opener.add_handler(ProxyHandler({name: proxies[name] for name in ("http", "https") if proxies.get(name)}))
    opener.add_handler(HTTPHandler())
    if endpoint.lower().startswith("https"):
        opener.add_handler(HTTPSHandler(context=ssl.create_default_context()))
    return opener


def _post(opener: OpenerDirector, request: _Request) -> _Answer:
    """Send one request. The time limit holds for each socket operation only: the caller bounds the whole."""
    from http.client import HTTPException
    from urllib.request import Request
    try:
        response = opener.open(Request(request.url, request.body, request.headers), None, _REQUEST_SECONDS)
    except (OSError, HTTPException, ValueError):
        return _NO_ANSWER
    if response is None:
        return _NO_ANSWER  # a proxy of a kind that urllib does not speak
    with response:
        return _Answer(response.status, response.headers.get("Retry-After") or "")


def _retry_seconds(text: str) -> Optional[float]:
    """The seconds that a Retry-After header asks for, from 1 to 24 hours'; None for rubbish."""
    from email.utils import parsedate_to_datetime  # loaded with the network code
    try:
        is_date = not text.strip().isdigit()
        seconds = parsedate_to_datetime(text).timestamp() - time.time() if is_date else float(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(seconds, 1.0), _LAST_PAUSE)


class _Sender:
    """Sends the waiting events of one process on daemon threads, which end when nothing is left to send.

    One thread posts; the other watches the clock, because a name look-up, a TLS handshake or a server that
    drips can't be interrupted: a request that overruns counts as failed and is left behind on its thread. The
    caller's thread starts both: since Python 3.12 none can be started once the main thread has ended.
    """

    def __init__(self, outbox: _Outbox, route: Callable[[], Optional[_Route]],
                 swallow: Callable[[Exception], None]) -> None:
        self.outbox = outbox
        self._route = route                     # what may be sent now, looked at afresh
        self._swallow = swallow
        self._changed = threading.Condition()   # guards all below; disk work under it is short
        self._run: Optional[object] = None      # stands for the threads; None: they ended, or are left behind
        self._threads: List[threading.Thread] = []
        self._flight: Optional[_Flight] = None
        self._own: Dict[str, None] = {}         # recorded by this object and not known to be delivered
        self._loading = False
        self._lost = False                      # one of them was refused or thrown away
        self._lead = ""                         # the destination for which this process is the one that sends
        self._leave_by: Optional[float] = None  # monotonic; the exit waits until then for events of this run,
        self._older_by = 0.0                    # and until then for older ones, if they are leaving already
        self._fair = _FAIR_SECONDS

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
            if self._run is None and self._leave_by is None:
                self._run = object()
                try:
                    self._threads = [threading.Thread(None, work, "telemetry", (self._run,), daemon=True)
                                     for work in (self._watch, self._send)]
                    for thread in self._threads:
                        thread.start()
                except RuntimeError:
                    self._stop()

    def _stop(self) -> bool:
        """Let the threads end, under the lock. Returns False."""
        self._run = None
        if self._lead:
            self.outbox.resign(self._lead)
        self._lead = ""
        self._changed.notify_all()
        return False

    def _send(self, run: object) -> None:
        """The posting thread."""
        try:
            if self._leads(run):
                self._load()
                while self._step(run):
                    pass
        except Exception as error:  # broad on purpose: nothing of ours may show up in the host's output
            self._swallow(error)
            with self._changed:
                if self._run is run:
                    self._settle(self._flight, _NO_ANSWER)
                    self._stop()

    def _load(self) -> None:
        """Import the network code, some 50 ms once in a process; idna is what a name look-up imports."""
        self._loading = True
        try:
            import urllib.request  # noqa: F401

            import encodings.idna  # noqa: F401
        finally:
            self._loading = False

    def _leads(self, run: object) -> bool:
        """Wait for our turn to send; False if others sent what we have meanwhile."""
        route = self._route()
        with self._changed:
            while self._run is run and route:
                mine = [name for name in self._own if os.path.lexists(self.outbox.path(name))]
                older = self._leave_by is None and self.outbox.waiting(route.client_id, route.destination.key)
                if not (mine or not self._own and older):
                    break
                if self.outbox.lead(route.destination.key):
                    self._lead = route.destination.key
                    return True
                self._changed.wait(0.02)
            return self._run is run and self._stop()

    def _step(self, run: object) -> bool:
        """Send one request; False if there is nothing more to send."""
        route = self._route()
        opener = _opener(route.destination.endpoint) if route else None
        flight = self._take(run, route)
        if route is None or opener is None or flight is None:
            return False
        request = _request(route, list(flight.claim.events.values()))
        flight = self._confirmed(flight, self._route() == route)
        return flight is not None and self._settle(flight, _post(opener, request))

    def _take(self, run: object, route: Optional[_Route]) -> Optional[_Flight]:
        """Claim what is to be sent next, or end the run: one step, so that no event falls between."""
        with self._changed:
            if self._run is not run:
                return None
            is_late = self._leave_by is not None and self._leave_by - time.monotonic() < self._fair
            if route and not is_late:
                only_own = self._leave_by is not None and time.monotonic() > self._older_by
                claim = self.outbox.claim(route, list(self._own), only_own)
                if claim:
                    self._flight = _Flight(claim, route.destination, time.monotonic() + _REQUEST_SECONDS)
                    self._changed.notify_all()
                    return self._flight
            self._stop()
            return None

    def _confirmed(self, flight: _Flight, allowed: bool) -> Optional[_Flight]:
        """The last look before the request: is it still allowed, are the events still ours?"""
        with self._changed:
            if self._flight is not flight:
                return None
            claim = self.outbox.renew(flight.claim.folder)
            if allowed and claim:
                self._flight = flight._replace(claim=flight.claim._replace(folder=claim))
                return self._flight
            self.outbox.give_back(claim)
            self._flight = None
            self._stop()
            return None

    def _watch(self, run: object) -> None:
        """The watching thread."""
        with self._changed:
            while self._run is run:
                left = self._flight.deadline - time.monotonic() if self._flight else _REQUEST_SECONDS
                if left <= 0:
                    self._settle(self._flight, _NO_ANSWER)
                else:
                    self.outbox.sign_life(self._lead) if self._lead else None
                    self._changed.wait(min(left, _LEAD_SECONDS / 6))

    def _settle(self, flight: Optional[_Flight], answer: _Answer) -> bool:
        """Act on what came of a request; True if delivered. Who comes first settles it."""
        with self._changed:
            if flight is None or self._flight is not flight:
                return False
            claim, self._flight = flight.claim, None
            delivered = 200 <= answer.status < 300
            refused = 400 <= answer.status < 500 and answer.status not in _KEPT_4XX
            if delivered or refused:
                self.outbox.finish(claim.folder)
                self._lost = self._lost or refused and not self._own.keys().isdisjoint(claim.events)
                for name in claim.events:
                    self._own.pop(name, None)
            else:
                self.outbox.give_back(claim.folder)
            self._changed.notify_all()
            if delivered:
                self.outbox.resume(flight.destination.key)
                return True
            self.outbox.pause(flight.destination, _retry_seconds(answer.retry_after))
            return self._stop()

    def flush(self, timeout: float) -> bool:
        """Wait until all that this object recorded is delivered: True; False as soon as that can't be."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                present = self.outbox.present()
                for name in [name for name in self._own if name not in present]:
                    del self._own[name]  # another process sent it, unless `disable` or a refusal took it
                    self._lost = self._lost or self._route() is None
                if self._own and self._run is None and self._route():
                    self.wake()
                left = deadline - time.monotonic()
                if not self._own or self._run is None or left <= 0:
                    return not self._own and not self._lost
                self._changed.wait(min(left, 0.05))

    def rest(self, deadline: float) -> None:
        """Wait until the threads have ended or the deadline (monotonic) has come; an import is waited for."""
        with self._changed:
            while self._run and (self._loading or time.monotonic() < deadline):
                self._changed.wait(0.01)
        threads, self._threads = self._threads, []
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        if threads:
            time.sleep(0.002)  # a joined thread has some last instructions before it

    def leave(self, deadline: float) -> bool:
        """Wait until this run's events are gone or the deadline (monotonic) has come, and send nothing more.
        Ctrl-C ends the wait. True if there was something to wait for."""
        with self._changed:
            was_busy, self._leave_by = self._run is not None, deadline
            self._fair = min(_FAIR_SECONDS, max(0.05, (deadline - time.monotonic()) / 2))
            self._older_by = time.monotonic() + self._fair if self._flight or self._own else 0.0
            with suppress(KeyboardInterrupt):
                while self._run and time.monotonic() < deadline and (
                        self._flight or self._own or time.monotonic() < self._older_by):
                    # in slices, because Windows lets no Ctrl-C through a wait
                    self._changed.wait(min(0.05, max(0.0, deadline - time.monotonic())))
            if self._flight and self._flight.deadline - time.monotonic() > _REQUEST_SECONDS - self._fair:
                self.outbox.give_back(self._flight.claim.folder)  # too early to call it a failure
                self._flight = None
            self._settle(self._flight, _NO_ANSWER)
            self._stop()
            return was_busy


# === Telemetry: what the tool calls ===

_ASCII_FRAME = str.maketrans("┌─┐│└┘", "+-+|++")


def _say(stream: Optional[TextIO], text: str) -> bool:
    """Write to a standard stream, with `?` for what it can't print; False if it is closed, missing or full.
    Not through its buffer: what stays there after an error fails again when the interpreter ends, and changes
    the exit code."""
    if stream is None:
        return False
    try:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        data = text.encode(encoding, "replace")
        stream.flush()
        try:
            fd = stream.fileno() if os.name != "nt" else -1  # consoles there take text, not bytes
        except (OSError, ValueError, AttributeError):
            fd = -1  # no real stream
        while fd >= 0 and data:
            data = data[os.write(fd, data):]
        if fd < 0:
            stream.write(data.decode(encoding))
            stream.flush()
    except Exception:  # broad: a stream may be the host's own object, which raises what it likes
        return False
    return True


def _notice(product: Product, encoding: Optional[str]) -> str:
    """The first-run notice in its frame."""
    lines = ["", f"{product.name} collects anonymous usage data", "to help us improve the tool.", "",
             f"To disable: {product.command} telemetry disable", f"Learn more: {product.docs_url}", ""]
    lines = lines if product.docs_url else [*lines[:5], ""]
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


def _process_state() -> Dict[str, Any]:
    """What all copies of this file and all `Telemetry` objects in this process share: when the exit began,
    whose notice was shown in this run, the last time stamp. The main thread's object is the one place that
    all of them know."""
    state: Dict[str, Any] = threading.main_thread().__dict__.setdefault("_usage_telemetry", {})
    return state


def _next_stamp() -> int:
    """Now in microseconds since 1970, different from all others in this process."""
    # Without a lock, which a signal handler or a forked child could find held: `setdefault` lets one win.
    taken: Dict[int, object] = _process_state().setdefault("stamps", {})
    known, mine = list(taken), object()
    stamp = max(time.time_ns() // 1000, known[-1] + 1 if known else 0)
    stamp += (os.getpid() - stamp) % 32  # so that processes started together don't meet in a microsecond
    while taken.setdefault(stamp, mine) is not mine:
        stamp += 32
    for old in known[:-32]:
        taken.pop(old, None)
    return stamp


class Telemetry:
    """Anonymous usage of one tool. No method raises, waits for the network or prints, except as documented.

    `version` is the tool's (letters, digits, `.+-_!`). `project` is the `telemetry` section of the project's
    own configuration, a mapping or None. `exit_wait` is how many seconds the interpreter's exit may wait.
    """

    def __init__(self, product: Product = CODEGEN, *, version: str = "unknown",
                 project: Optional[Mapping[str, object]] = None, exit_wait: float = 1.0) -> None:
        self._product, self._version, self._project = product, _clean_version(version), project
        self._exit_wait = exit_wait
        agent = "".join(c if c in _WORD_LETTERS or c == "." else "-" for c in product.command)
        self._user_agent = f"{agent}/{self._version}"
        self._closed, self._hooked = False, 0
        self._senders: Dict[int, _Sender] = {}  # by process: a forked child starts anew
        self._place: Optional[Tuple[_Files, bool]] = None  # where everything lies, and whether it is CI
        self._swallowed: Optional[Exception] = None

    @property
    def enabled(self) -> bool:
        """Whether events are recorded now."""
        return self._guarded(lambda: not self._look().refusal, False)

    @property
    def reason(self) -> str:
        """Who decided: "on by default", a variable, "project", the config file's path, "no place ..."."""
        return self._guarded(lambda: self._look().refusal or _ON, "unknown")

    def track(self, event: str = "", /, **params: object) -> None:
        """Record an event of the product's table; what the table doesn't declare is dropped."""
        self._guarded(lambda: self._record(event or params.pop("event", ""), params), None)

    def command(self, name: str = "", /, flags: Iterable[str] = (), **params: object) -> _Command:
        """A context manager that times its block and records `command_executed`, and `error_occurred` if it
        failed. Its `update(**params)` adds what is known only later."""
        return _Command(self, {**params, "command": name or params.get("name", ""), "flags": flags})

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait at most `timeout` seconds. True: all that this object recorded has been delivered."""
        return self._guarded(lambda: os.getpid() not in self._senders or self._sender().flush(timeout), False)

    def close(self, timeout: float = 1.0) -> bool:
        """Flush, then record nothing more: for hosts that end by `os._exit` or `os.exec*`."""
        delivered, self._closed = self.flush(timeout), True
        atexit.unregister(self._at_exit)
        self._guarded(lambda: self._leave(time.monotonic()), False)
        return delivered

    def _guarded(self, call: Callable[[], _T], default: _T) -> _T:
        """The call's result, or the default."""
        try:
            return call()
        except Exception as error:  # broad on purpose: telemetry never breaks its host
            self._swallow(error)
            return default

    def _swallow(self, error: Exception) -> None:
        """Keep an error that should not have happened, for the tests; debug mode shows it."""
        self._swallowed = error
        if _is_set(os.environ, self._product.env_prefix + "_DEBUG"):
            self._explain(f"unexpected {type(error).__name__}")

    def _look(self, environ: Mapping[str, str] = os.environ) -> _Situation:
        """Look at environment, project and config file. Off by environment, no file is touched."""
        product = self._product
        refused = _environment_refusal(product, environ)
        debug = _is_set(environ, product.env_prefix + "_DEBUG")
        if refused:
            return _Situation(refused, debug, False, _MISSING, _Destination("nobody", problem="it is off"))
        if self._place is None:  # neither changes while we run
            self._place = _files(product), is_ci(environ)
        files, ci = self._place
        config = _read_config(files.config)
        refusal = _refusal(_project_section(product, self._project), config, files)
        return _Situation(refusal, debug, ci, config, _destination(product, environ, config))

    def _files(self) -> _Files:
        return self._place[0] if self._place else _files(self._product)

    def _sender(self) -> _Sender:
        """This process's sender."""
        pid = os.getpid()
        if pid not in self._senders:
            outbox = _Outbox(self._files().outbox)
            self._senders.setdefault(pid, _Sender(outbox, lambda: self._route(self._look()), self._swallow))
        return self._senders[pid]

    def _record(self, event: object, params: Mapping[str, object], wake: bool = True) -> None:
        seen = self._look()
        explain = self._explain if seen.debug else lambda line: None
        declared = self._product.events.get(event) if isinstance(event, str) else None
        if declared is not None and not (seen.refusal or self._closed):
            seen = self._introduced(seen)
        if seen.refusal or self._closed:
            return explain(f"telemetry is off: {seen.refusal or 'closed'}")
        if declared is None or not isinstance(event, str):
            return explain(f"dropped an event: {ascii(event)[:60]} is not declared")
        kept, dropped = _checked(declared, params)
        for name in dropped:
            explain(f"dropped a parameter of {event}: {ascii(name)[:60]} is not declared or not of its kind")
        shaped = _event(event, kept, declared, self._version, seen.ci, _next_stamp())
        if seen.debug:
            self._explain_request(seen, shaped)
        elif not seen.destination.problem:  # else there is nobody to send it to
            sender = self._sender()
            sender.add(sender.outbox.put(self._address(seen), shaped))
            if wake and self._route(seen):
                self._wake()
        return None

    def _introduced(self, seen: _Situation) -> _Situation:
        """The situation after the config file was made and the notice was shown, if they were due."""
        files = self._files()
        with suppress(OSError, ValueError):
            if seen.config is _MISSING:
                _create_config(self._product, files, True)
                seen = self._look()
            elif not seen.config.client_id:
                _update_config(files.config, _give_id)
                seen = self._look()
            if not (seen.refusal or seen.ci or seen.config.notice_shown):
                _update_config(files.config, self._show_notice)
                seen = self._look()
        if not (seen.refusal or seen.config.client_id):
            return seen._replace(refusal=f"no place for {files.config}")
        return seen

    def _show_notice(self, document: Dict[str, Any]) -> bool:
        """Show the notice, under the config file's lock: who doesn't get it leaves it to who has it."""
        config, stream = _interpreted(document), sys.stderr
        if config.notice_shown or not config.enabled:
            return False
        if not _say(stream, _notice(self._product, getattr(stream, "encoding", None))):
            return False
        _process_state()[f"notice shown: {self._files().config}"] = True
        document["hasShownTelemetryNotice"] = True
        return True

    def _address(self, seen: _Situation) -> _Route:
        return _Route(seen.destination, seen.config.client_id, self._user_agent)

    def _route(self, seen: _Situation) -> Optional[_Route]:
        """Where events may go now; None for nowhere."""
        if seen.refusal or seen.debug or seen.destination.problem or not seen.config.client_id:
            return None
        # A user who has just been told must have the time to say no: this run's events wait for the next.
        # Whoever set the destination by environment variable knows, and CI shows no notice.
        was_told_before = (seen.config.notice_shown and f"notice shown: {self._files().config}"
                           not in _process_state())
        if seen.destination.source == "product" and not (seen.ci or was_told_before):
            return None
        return None if self._sender().outbox.paused_until(seen.destination.key) else self._address(seen)

    def _wake(self) -> None:
        """Start sending, but not from exit handlers of the main thread: nobody would wait."""
        main = threading.main_thread()
        if main.is_alive() or threading.get_ident() != main.ident:
            if self._hooked != os.getpid():
                self._hook()
            self._sender().wake()

    def _hook(self) -> None:
        """Be called when this process ends or forks. Children of multiprocessing end without `atexit`."""
        self._hooked = os.getpid()
        atexit.register(self._at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before_fork)
        util, process = (sys.modules.get(f"multiprocessing.{name}") for name in ("util", "process"))
        if util and process and process.parent_process():
            util.Finalize(None, self._at_exit, exitpriority=0)

    def _prepare(self) -> None:
        """Start sending older events while the tool works."""
        seen = self._look()
        if self._route(seen) and self._sender().outbox.waiting(seen.config.client_id, seen.destination.key):
            self._wake()

    def _leave(self, deadline: float) -> bool:
        return os.getpid() in self._senders and self._sender().leave(deadline)

    def _before_fork(self) -> None:
        """Let the threads end first, if they do so soon: in the child, a lock that one of them held (that of
        an import, say) would be held for ever, and Python 3.12 and later warn of a fork beside threads."""
        if os.getpid() in self._senders:
            self._guarded(lambda: self._sender().rest(time.monotonic() + _FAIR_SECONDS), None)

    def _at_exit(self) -> None:
        """Wait for this run's events; all copies and objects in this process share one deadline."""
        began = _process_state().setdefault("exit began", time.monotonic())
        was_busy = True
        with suppress(KeyboardInterrupt):
            was_busy = self._guarded(lambda: self._leave(began + self._exit_wait), False)
        interrupted = isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)
        if interrupted and was_busy and not hasattr(sys, "ps1"):  # which an interactive session has
            # CPython ends a process by SIGINT when Ctrl-C ended its main module, but forgets that when any
            # thread evaluates source text meanwhile, as the standard library does while it is imported. This
            # reminds it: https://github.com/python/cpython/blob/v3.13.0/Python/pythonrun.c
            # (run_eval_code_obj)
            with suppress(KeyboardInterrupt):
                exec("raise KeyboardInterrupt")

    def _explain(self, line: str) -> None:
        _say(sys.stderr, f"[telemetry] {line}\n")

    def _explain_request(self, seen: _Situation, event: Dict[str, Any]) -> None:
        """Debug mode's way to deliver: show the request on standard error."""
        problem, endpoint = seen.destination.problem, _masked(seen.destination.endpoint)
        shown = _Destination("") if problem else seen.destination._replace(api_secret="", endpoint=endpoint)
        request = _request(self._address(seen)._replace(destination=shown), [event])
        secret = "&api_secret=***" if "?" in request.url else "?api_secret=***"
        line = f"no destination, nothing would be sent: {problem}"
        if not problem:
            line = f"POST {request.url}{secret if seen.destination.api_secret else ''}"
        headers = [f"{name}: {value}" for name, value in request.headers.items()]
        self._explain("\n".join(["debug mode, nothing is sent", line, *headers, "", request.body.decode()]))


def _give_id(document: Dict[str, Any]) -> bool:
    """Add the anonymous ID to a config file that someone wrote without one."""
    section = document.setdefault("telemetry", {})
    section["anonymousId"] = section.get("anonymousId") or _new_id()
    return True


class _Command:
    """What `Telemetry.command` returns."""

    def __init__(self, telemetry: Telemetry, params: Dict[str, object]) -> None:
        self._telemetry, self._params = telemetry, params

    def update(self, /, **params: object) -> None:
        """Add what is known only later."""
        self._params.update(params)

    def __enter__(self) -> _Command:
        self._telemetry._guarded(self._telemetry._prepare, None)
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: object, error: Optional[BaseException], traceback: object) -> None:
        spent = round((time.monotonic() - self._began) * 1000)
        self._telemetry._guarded(lambda: self._finish(error, spent), None)

    def _finish(self, error: Optional[BaseException], spent: int) -> None:
        success = error is None or isinstance(error, SystemExit) and error.code in (None, 0)
        if not success:
            failed = {"command": self._params["command"], "error_type": error_type(error)}
            self._telemetry._record("error_occurred", failed, wake=False)
        wake = not isinstance(error, KeyboardInterrupt)  # who pressed Ctrl-C does not want to wait for us
        params = {"duration": spent, "success": success, **self._params}
        self._telemetry._record("command_executed", params, wake)


# === Command line: what the user calls ===

NEVER_COLLECTED = (
    "file paths or file names", "actual URLs or file locations", "file contents or schema details",
    "project names", "user names or emails", "API keys or credentials",
    "IP addresses (anonymized by the analytics provider)", "hostnames", "environment variable values",
    "Git repository information", "custom schema structures", "error messages or stack traces",
    "values of arguments")
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
    prefix, found = product.env_prefix, {}
    effects = {"DO_NOT_TRACK": "turns telemetry off", f"{prefix}_DISABLED": "turns telemetry off",
               f"{prefix}_DEBUG": "shows requests instead of sending them"}
    for name, effect in effects.items():
        if name in environ:
            found[name] = effect if _is_set(environ, name) else "no effect (its value means no)"
    for name in (f"{prefix}_ENDPOINT", f"{prefix}_ID", f"{prefix}_API_SECRET"):
        if name in environ:
            is_used = environ.get(f"{prefix}_ENDPOINT", "").strip() and environ[name].strip()
            found[name] = "sets the destination" if is_used else f"no effect (empty, or no {prefix}_ENDPOINT)"
    return found


def _status(product: Product, environ: Mapping[str, str] = os.environ) -> Dict[str, Any]:
    """Everything that `status` shows, as JSON types. Reads only."""
    files = _files(product)
    config = _read_config(files.config)
    refusal = _environment_refusal(product, environ)
    refusal = refusal or _refusal(_project_section(product, None), config, files)
    destination = _destination(product, environ, config)
    outbox = _Outbox(files.outbox)
    waiting = outbox.waiting(config.client_id) if config.client_id else []
    paused = 0.0 if destination.problem else outbox.paused_until(destination.key)
    exists = config is not _MISSING
    in_project = [f'"telemetry": {{"enabled": false}} in {product.project_file}'] * bool(product.project_file)
    return {
        "enabled": not refusal,
        "reason": refusal or _ON,
        "config_file": {"path": files.config, "exists": exists, "problem": config.problem if exists else ""},
        "anonymous_id": config.client_id,
        "destination": {"endpoint": "" if destination.problem else _masked(destination.endpoint),
                        "measurement_id": "" if destination.problem else destination.measurement_id,
                        "source": destination.source, "problem": destination.problem},
        "ci": is_ci(environ),
        "environment": _variables(product, environ),
        "waiting": {"events": len(waiting), "since": _now_text(_stamp(waiting[0])) if waiting else None,
                    "next_attempt": _now_text(paused) if paused else None},
        "collected": {event: {name: _kind_name(kind) for name, kind in params.items()}
                      for event, params in product.events.items()},
        "collected_with_every_event": dict(_COMMON_PARAMS),
        "never_collected": list(NEVER_COLLECTED),
        "turn_off": [f"{product.command} telemetry disable", f"{product.env_prefix}_DISABLED=1",
                     "DO_NOT_TRACK=1", *in_project],
        "docs_url": product.docs_url,
    }


def _status_lines(status: Dict[str, Any]) -> Iterator[str]:
    """The status for people: 80 columns and ASCII, but for paths and URLs that are otherwise."""
    from textwrap import wrap  # needed here only

    def row(label: str, text: str) -> List[str]:
        return wrap(text, 79, initial_indent=f"{label:<16}", subsequent_indent=" " * 16,
                    break_long_words=False, break_on_hyphens=False)

    config, target, waiting = status["config_file"], status["destination"], status["waiting"]
    found = "exists" if config["exists"] else "does not exist yet"
    found = f"damaged: {config['problem']}" if config["problem"] else found
    named = f"{target['endpoint']} with ID {target['measurement_id'] or 'none'} (from the {target['source']})"
    since = f" since {waiting['since']}" if waiting["since"] else ""
    yield f"Telemetry is {'on' if status['enabled'] else 'off'}: {status['reason']}\n"
    yield from row("Config file", f"{config['path']} ({found})")
    yield from row("Anonymous ID", status["anonymous_id"] or "none yet")
    yield from row("Destination", f"none: {target['problem']}" if target["problem"] else named)
    yield from row("Waiting", f"{waiting['events']} events{since}")
    if waiting["next_attempt"]:
        yield from row("Next attempt", f"not before {waiting['next_attempt']}, after a failure")
    yield from row("CI", "yes: no first-run notice" if status["ci"] else "no")
    yield "\nVariables that are set"
    yield from [f"  {name}: {effect}" for name, effect in status["environment"].items()] or ["  none"]
    yield "\nCollected, and nothing else"
    common = {"with every event": status["collected_with_every_event"]}
    for event, params in {**status["collected"], **common}.items():
        yield f"  {event}"
        yield from row("", ", ".join(f"{name} ({kind})" for name, kind in params.items()))
    yield "  kinds"
    yield from (f"    {kind:<13}{text}" for kind, text in KINDS.items())
    yield "\nNever collected"
    yield from row("", "; ".join(status["never_collected"]))
    yield "\nTo turn it off"
    yield from (f"  {way}" for way in status["turn_off"])
    yield f"\nLearn more: {status['docs_url']}" if status["docs_url"] else ""


def _set_enabled(product: Product, enabled: bool) -> None:
    """Write the user's decision, durably. Raises OSError, ValueError when it could not."""
    files, outbox = _files(product), _Outbox(_files(product).outbox)
    before = _read_config(files.config)

    def decide(document: Dict[str, Any]) -> bool:
        _interpreted(document)
        document.setdefault("telemetry", {})["enabled"] = enabled
        return _give_id(document)

    if not files.config:
        raise FileNotFoundError(errno.ENOENT, "there is no home folder", "~")
    if before.problem and before is not _MISSING:
        if not enabled:
            raise ValueError(f"{files.config} is damaged ({before.problem}) and was left as it is")
        _patiently(partial(os.replace, files.config, files.config + ".bak"))
    if before.problem and _create_config(product, files, enabled, durable=True):
        pass
    else:
        _update_config(files.config, decide, 2.0)
    if enabled and before.enabled:
        outbox.resume()
    else:  # also after `enable`: what was recorded in the moment of a `disable` must not leave later
        outbox.clear()


def _decide(product: Product, enabled: bool) -> int:
    """`enable` and `disable`."""
    try:
        _set_enabled(product, enabled)
    except (OSError, ValueError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
        instead = f"This works instead: set {product.env_prefix}_DISABLED=1 in the environment.\n"
        _say(sys.stderr, f"Could not {'enable' if enabled else 'disable'} telemetry: {reason}\n"
             + ("" if enabled else instead))
        return 1
    reason = Telemetry(product).reason
    _say(sys.stderr, "Telemetry is off. What waited to be sent is deleted.\n" if not enabled
         else f"Telemetry is enabled for this user, but still off here: {reason} says no.\n" if reason != _ON
         else "Telemetry is on. Thank you.\n")
    return 0


def main(argv: Optional[List[str]] = None, *, product: Product = CODEGEN) -> int:
    """The command line: `status [--json]`, `enable`, `disable`. Facts go to standard output, messages to
    standard error. Returns 0 for done, 1 for could not, 2 for wrong usage; never raises SystemExit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    usage = _USAGE.format(command=product.command)
    if {"-h", "--help"} & set(arguments):
        _say(sys.stdout, usage)
    elif arguments in (["enable"], ["disable"]):
        return _decide(product, arguments == ["enable"])
    elif sorted(arguments) in (["status"], ["--json", "status"]):
        status = _status(product)
        _say(sys.stdout, (json.dumps(status, indent=2) if "--json" in arguments
                          else "\n".join(_status_lines(status))) + "\n")
    else:
        _say(sys.stderr, usage)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
