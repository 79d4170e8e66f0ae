# SPDX-License-Identifier: 0BSD
"""Tests of codegen_telemetry: real servers on 127.0.0.1, real folders, real processes.

Run them with `python -m unittest`; they need nothing but the standard library and take about 80 seconds.
"""

from __future__ import annotations

import ast
import contextlib
import http.server
import inspect
import itertools
import json
import os
import queue
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, Dict, List, Mapping, Optional, Sequence

import codegen_telemetry
from codegen_telemetry import CODEGEN, Product, Telemetry

HERE = Path(__file__).resolve().parent
MODULE = Path(codegen_telemetry.__file__).resolve()
WAIT = 20.0  # seconds; the limit of every wait, reached only by a test that fails
SEED = int(os.environ.get("TEST_SEED") or random.SystemRandom().randrange(10 ** 6))
POSIX = os.name == "posix"


class Server:
    """A collector on loopback. `answer` is a status, or (status, headers), or a function that is called with
    the handler and does what it likes; `requests` holds (path, headers, document) in order of arrival."""

    def __init__(self, answer: Any = 204, tls: Sequence[str] = ()) -> None:
        self.answer = answer
        self.requests: List[Any] = []
        self.arrived: queue.Queue[Any] = queue.Queue()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                record = (self.path, dict(self.headers), json.loads(body))
                server.requests.append(record)
                server.arrived.put(record)
                answer = server.answer
                if callable(answer):
                    answer(self)
                    return
                status, headers = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *arguments: Any) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        if tls:  # files of a certificate and its key
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True,
                                                      do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/collect"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(WAIT)

    @property
    def events(self) -> List[Dict[str, Any]]:
        """All events that arrived, in order."""
        return [event for _, _, document in list(self.requests) for event in document["events"]]


class Case(unittest.TestCase):
    """A test with a home folder and, where it asks for one, a server of its own."""

    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="home-")).resolve()
        self.addCleanup(shutil.rmtree, str(self.home), ignore_errors=True)
        self.folder = self.home / ".the-codegen-project"
        self.config = self.folder / "config.json"
        self.outbox = self.folder / "outbox"

    def server(self, answer: Any = 204, tls: Sequence[str] = ()) -> Server:
        server = Server(answer, tls)
        self.addCleanup(server.close)
        return server

    def environment(self, server: Optional[Server] = None, **more: str) -> Dict[str, str]:
        """A child's environment: this home, and `server` as the destination that its user chose."""
        kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "COMSPEC", "LANG")
                if name in os.environ}
        kept.update(HOME=str(self.home), USERPROFILE=str(self.home), PYTHONPATH=str(HERE),
                    PYTHONDONTWRITEBYTECODE="1")
        if server:
            kept.update(CODEGEN_TELEMETRY_ENDPOINT=server.url, CODEGEN_TELEMETRY_ID="G-TEST",
                        CODEGEN_TELEMETRY_API_SECRET="s3cret")
        kept.update(more)
        return kept

    def start(self, code: str, env: Mapping[str, str], *arguments: str, flags: Sequence[str] = (),
              **options: Any) -> subprocess.Popen[str]:
        """A child process that runs this code; killed at the test's end if it still runs."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                   "cwd": str(self.home), **options}
        child = subprocess.Popen([sys.executable, *flags, "-c", textwrap.dedent(code), *arguments],
                                 env=dict(env), universal_newlines=True, encoding="utf-8", errors="replace",
                                 **options)

        def end() -> None:
            if child.poll() is None:
                child.kill()
            child.wait(WAIT)
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe:
                    pipe.close()

        self.addCleanup(end)
        return child

    def run_code(self, code: str, env: Mapping[str, str], *arguments: str, **options: Any) -> Any:
        """Run code in a child to its end; returns (CompletedProcess, seconds)."""
        began = time.monotonic()
        child = self.start(code, env, *arguments, **options)
        out, err = child.communicate(timeout=WAIT)
        return subprocess.CompletedProcess([], child.returncode, out, err), time.monotonic() - began

    def write_config(self, **changes: Any) -> Dict[str, Any]:
        """A config file of someone who has seen the notice; keywords change its `telemetry` section."""
        document = {"version": "1.0.0",
                    "telemetry": {"enabled": True, "anonymousId": "550e8400-e29b-41d4-a716-446655440000",
                                  "endpoint": CODEGEN.endpoint, "trackingId": CODEGEN.tracking_id, **changes},
                    "hasShownTelemetryNotice": True, "lastUpdated": "2024-12-11T10:30:00Z"}
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.config.write_text(json.dumps(document), encoding="utf-8")
        return document

    def document(self) -> Any:
        """What the config file holds now."""
        return json.loads(self.config.read_text(encoding="utf-8"))

    def waiting(self) -> List[Dict[str, Any]]:
        """The events that wait in the outbox, oldest first."""
        return [json.loads(path.read_text())["event"] for path in sorted(self.outbox.glob("*.json"))]

    def on_terminal(self, code: str, env: Mapping[str, str], *arguments: str, flags: Sequence[str] = (),
                    typed: bytes = b"", **options: Any) -> Any:
        """Run code in a child whose standard error is a terminal; CompletedProcess with what it showed there.

        The home must not be shared with a run that expects no notice: this is where the notice is shown."""
        import pty
        terminal, tty = pty.openpty()
        shown: List[bytes] = []

        def read() -> None:
            with contextlib.suppress(OSError):  # EIO, once the last writer has closed it
                data = os.read(terminal, 65536)
                while data:
                    shown.append(data)
                    data = os.read(terminal, 65536)

        reader = threading.Thread(target=read, daemon=True)
        child = self.start(code, env, *arguments, flags=flags, stderr=tty, **options)
        os.close(tty)
        reader.start()
        out, _ = child.communicate(timeout=WAIT)
        reader.join(WAIT)
        os.close(terminal)
        text = b"".join(shown).decode("utf-8", "replace").replace("\r\n", "\n")
        return subprocess.CompletedProcess([], child.returncode, out, text)

    def eventually(self, condition: Any, message: str = "") -> None:
        """Wait until `condition()` holds."""
        deadline = time.monotonic() + WAIT
        while not condition():
            if time.monotonic() > deadline:
                self.fail(message or "it did not happen")
            threading.Event().wait(0.01)


# The box of telemetry.md.
NOTICE = """\
┌─────────────────────────────────────────────────────────────┐
│                                                             │
│  The Codegen Project CLI collects anonymous usage data      │
│  to help us improve the tool.                               │
│                                                             │
│  To disable: codegen telemetry disable                      │
│  Learn more: https://the-codegen-project.org/docs/telemetry │
│                                                             │
└─────────────────────────────────────────────────────────────┘
"""
ASCII_NOTICE = NOTICE.translate(str.maketrans("┌─┐│└┘", "+-+|++"))
COMMON = {"cli_version", "python_version", "os", "ci", "agent", "session_id", "engagement_time_msec"}
HEAVY = ("urllib.request http.client ssl email uuid argparse dataclasses inspect logging tempfile "
         "subprocess").split()
IS_ROOT = POSIX and os.geteuid() == 0

# One event, and the program ends.
TRACK = """
    from codegen_telemetry import Telemetry
    Telemetry(version="0.57.0", exit_wait=5).track("command_executed", command="generate")
    """
# The same by a tool whose author has a destination at sys.argv[1]: its first run only keeps what it records.
OWN_TRACK = """
    import sys
    from codegen_telemetry import Product, Telemetry
    product = Product(endpoint=sys.argv[1], tracking_id="G-1", api_secret="own")
    Telemetry(product, exit_wait=5).track("command_executed", command="generate")
    """
# `rows` from sys.argv; what the code puts into `answers` is the child's answer.
ASK = """
    import contextlib, io, json, os, sys
    from pathlib import Path
    import codegen_telemetry
    from codegen_telemetry import *
    rows, answers = json.loads(sys.argv[1]), []
    def said(call):  # what a call returned, and wrote on standard output and standard error
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            result = call()
        return result, out.getvalue(), err.getvalue()
    def shown(text):  # the request in debug output
        at = text.find('{"client_id"')
        return json.JSONDecoder().raw_decode(text[at:])[0] if at >= 0 else None
    """


class BasicCase(Case):
    """A case whose children answer a whole table at once, or run side by side."""

    def ask(self, code: str, rows: Any, env: Optional[Mapping[str, str]] = None, **options: Any) -> Any:
        """What a child that runs `code` for these rows put into `answers`."""
        end = "\nsys.__stdout__.write(json.dumps(answers))\n"
        program = textwrap.dedent(ASK) + textwrap.dedent(code) + end
        env = self.environment() if env is None else env
        done, _ = self.run_code(program, env, json.dumps(rows), flags=("-W", "error"), **options)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def python(self, *arguments: str, env: Mapping[str, str], shell: str = "", **options: Any) -> Any:
        """Start the interpreter with these arguments, by a shell with a redirection if one is given."""
        command = [sys.executable, *arguments]
        if shell:
            command = ["/bin/sh", "-c", f'exec "$@" {shell}', "sh", *command]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                   "cwd": str(self.home), **options}
        child = subprocess.Popen(command, env=dict(env), universal_newlines=True, encoding="utf-8", **options)
        self.addCleanup(child.communicate)
        self.addCleanup(lambda: child.poll() is None and child.kill())
        return child

    def telemetry(self, *arguments: str, env: Optional[Mapping[str, str]] = None, **options: Any) -> Any:
        """`python -m codegen_telemetry ...` to its end."""
        child = self.python("-m", "codegen_telemetry", *arguments,
                            env=self.environment() if env is None else env, **options)
        return self.ended([child])[0]

    def ended(self, children: Sequence[Any]) -> List[Any]:
        """The results of children, in their order."""
        found = []
        for child in children:
            out, err = child.communicate(timeout=WAIT)
            found.append(subprocess.CompletedProcess([], child.returncode, out, err))
        return found

    def at_once(self, codes: Sequence[str], env: Mapping[str, str]) -> List[Any]:
        """Run several programs that all go on past their imports at the same moment."""
        reader, writer = os.pipe()
        begin = "import sys\nfrom codegen_telemetry import *\nprint(end='.', flush=True)\nsys.stdin.read()\n"
        children = [self.start(begin + textwrap.dedent(code), env, stdin=reader) for code in codes]
        os.close(reader)
        for child in children:
            self.assertEqual(child.stdout.read(1), ".")
        os.close(writer)
        return self.ended(children)

    def new_home(self, name: str) -> Path:
        """A home folder below this case's own."""
        home = self.home / name
        home.mkdir()
        return home

    def listing(self) -> List[str]:
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*"))



# As those do who check types while a host runs: every function notes what it gets or gives wrongly.
CHECKED = """
    import ast, collections.abc, functools, inspect, sys, types, typing
    wrong = []
    def holds(value, hint):
        origin = typing.get_origin(hint)
        if origin in (typing.Union, types.UnionType):
            return any(holds(value, part) for part in typing.get_args(hint))
        return callable(value) if origin is collections.abc.Callable else isinstance(value, origin or hint)
    def checked(function):
        kinds = {name: parameter.kind for name, parameter in inspect.signature(function).parameters.items()}
        @functools.wraps(function)
        def call(*arguments, **options):
            given = inspect.signature(function).bind(*arguments, **options).arguments
            given["return"] = result = function(*arguments, **options)
            for name, hint in typing.get_type_hints(function).items():
                values = [given[name]] if name in given else []
                if values and kinds.get(name) == inspect.Parameter.VAR_POSITIONAL: values = values[0]
                if values and kinds.get(name) == inspect.Parameter.VAR_KEYWORD: values = values[0].values()
                wrong.extend((function.__qualname__, name, repr(value)[:60]) for value in values
                             if not holds(value, hint))
            return result
        return call
    tree = ast.parse(open(sys.argv[1], encoding="utf-8").read())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef): node.decorator_list.append(ast.Name("checked", ast.Load()))
    module = sys.modules["codegen_telemetry"] = types.ModuleType("codegen_telemetry")
    module.checked = checked
    exec(compile(ast.fix_missing_locations(tree), "codegen_telemetry.py", "exec"), vars(module))
    """


class ToldCase(BasicCase):
    """A case with any number of users who have seen the notice."""

    def told_home(self, name: str, **changes: Any) -> Dict[str, str]:
        """The variables of a home of its own, with a config file."""
        home = self.new_home(name)
        self.folder = home / CODEGEN.directory
        self.config = self.folder / "config.json"
        self.write_config(**changes)
        return {"HOME": str(home), "USERPROFILE": str(home)}


class ShapeTests(ToldCase):
    """What the file is, and what importing it does: nothing."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.source = MODULE.read_text(encoding="utf-8")
        cls.tree = ast.parse(cls.source)
        cls.functions = [node for node in ast.walk(cls.tree) if isinstance(node, ast.FunctionDef)]

    def test_public_names_are_the_documented_ones(self) -> None:
        names = {"CODEGEN", "Product", "Telemetry", "error_type", "input_source", "is_ci", "main"}
        self.assertEqual(set(codegen_telemetry.__all__) - {"__version__"}, names)
        self.assertRegex(codegen_telemetry.__version__, r"^\d+\.\d+\.\d+$")
        starred: Dict[str, Any] = {}
        exec("from codegen_telemetry import *", starred)
        self.assertLessEqual(names, set(starred))

    def test_defaults_are_the_documented_ones(self) -> None:
        import inspect
        table: Dict[Any, Dict[str, Any]] = {
            Telemetry: dict(product=CODEGEN, version="unknown", project=None, exit_wait=1.0, captured=None),
            Telemetry.flush: dict(timeout=1.0), Telemetry.close: dict(timeout=1.0),
            codegen_telemetry.is_ci: dict(environ=os.environ),
            codegen_telemetry.main: dict(argv=None, product=CODEGEN, project=None)}
        for call, expected in table.items():
            with self.subTest(call=call):
                parameters = inspect.signature(call).parameters
                self.assertEqual({name: parameters[name].default for name in parameters
                                  if parameters[name].default is not inspect.Parameter.empty}, expected)

    def test_import_does_nothing_and_loads_nothing_heavy(self) -> None:
        code = """
            import contextlib, itertools, json, os, sys, threading, types
            read = []
            class Spy(dict):
                def __getitem__(self, name): read.append(name); return dict.__getitem__(self, name)
                def get(self, name, default=None): read.append(name); return dict.get(self, name, default)
                def __contains__(self, name): read.append(name); return dict.__contains__(self, name)
                def __iter__(self): read.append("all"); return dict.__iter__(self)
            os.environ = Spy(os.environ)
            sys.path.insert(0, sys.argv[1])
            import codegen_telemetry
            sys.stdout.write(json.dumps([read, threading.active_count(), sorted(sys.modules)]))
            """
        done, _ = self.run_code(code, self.environment(), str(HERE), flags=("-I", "-S"))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        read, threads, modules = json.loads(done.stdout)
        self.assertEqual((read, threads, self.listing()), ([], 1, []))
        self.assertEqual([name for name in HEAVY if name in modules], [])

    def test_file_travels_alone_under_any_name(self) -> None:
        vendor = self.new_home("src") / "anytool" / "_vendor"
        vendor.mkdir(parents=True)
        shutil.copy(str(MODULE), str(vendor / "telemetry.py"))
        for folder in (vendor, vendor.parent):
            (folder / "__init__.py").touch()
        zipped = shutil.make_archive(str(self.home / "tool"), "zip", str(self.home / "src"))
        code = """
            from anytool._vendor.telemetry import *
            with Telemetry(exit_wait=15).command("build"): pass
            """
        server, children = self.server(), []
        for place in (str(self.home / "src"), zipped):
            env = self.environment(server, PYTHONPATH=place, CI="1")
            children += [self.python("-W", "error", "-m", "anytool._vendor.telemetry", "status", env=env),
                         self.start(code, env, flags=("-W", "error"))]
        found = self.ended(children)
        for done in found:
            self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(found[0].stdout, "(?i)telemetry is on")
        self.assertEqual(len(server.events), 2)

    @unittest.skipUnless((HERE / ".git").exists() and shutil.which("git"), "in a checkout")
    def test_four_files_are_visible(self) -> None:
        tracked = subprocess.run(["git", "ls-files"], cwd=str(HERE), check=True, capture_output=True).stdout
        visible = {name.partition("/")[0] for name in tracked.decode().splitlines() if name[0] != "."}
        self.assertEqual(visible, {"codegen_telemetry.py", "test_codegen_telemetry.py", "pyproject.toml",
                                   "README.md"})

    def test_licence_is_named_in_the_file(self) -> None:
        self.assertRegex(self.source, r"\A(#.*\n)*# SPDX-License-Identifier: 0BSD\n")

    def test_file_is_short(self) -> None:
        lines = self.source.splitlines()
        self.assertEqual([number for number, line in enumerate(lines, 1) if len(line) > 110], [])
        self.assertLess(len(lines), 1650)

    def test_functions_are_short(self) -> None:
        sizes = sorted(((node.end_lineno or 0) - node.lineno + 1, node.name) for node in self.functions)
        self.assertLessEqual(sizes[-1], (40, "~"))
        bodies = [node.body[1:] if ast.get_docstring(node) and node.body[1:] else node.body
                  for node in self.functions]
        lengths = sorted((body[-1].end_lineno or 0) - body[0].lineno + 1 for body in bodies)
        self.assertLessEqual(lengths[len(lengths) // 2], 8)

    def test_nothing_is_evaluated_and_nothing_kept_in_the_module(self) -> None:
        self.assertEqual([node.lineno for node in ast.walk(self.tree) if isinstance(node, ast.Global)], [])
        self.assertEqual([node.lineno for node in ast.walk(self.tree) if isinstance(node, ast.Call)
                          and getattr(node.func, "id", "") in ("exec", "eval", "compile", "__import__")], [])
        classes = [kind for kind in vars(codegen_telemetry).values() if isinstance(kind, type)
                   and kind.__module__ == codegen_telemetry.__name__]
        kept = [f"{space.__name__}.{name}" for space in [codegen_telemetry, *classes]
                for name, value in vars(space).items() if isinstance(value, (dict, list, set, bytearray))
                and not name.startswith("__") and not name.endswith("_defaults")]
        self.assertEqual(kept, [])

    @unittest.skipIf(sys.version_info < (3, 10) or sys.implementation.name != "cpython", "needs its symtable")
    def test_names_are_used_below_where_they_are_defined(self) -> None:
        import symtable
        defined: Dict[str, int] = {}
        for node in self.tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                defined.setdefault(node.name, node.lineno)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                for part in ast.walk(node):
                    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                        defined.setdefault(part.id, node.lineno)
        used, tables = [], [symtable.symtable(self.source, str(MODULE), "exec")]
        while tables:
            table = tables.pop()
            tables += table.get_children()
            used += [(table.get_name(), symbol.get_name()) for symbol in table.get_symbols()
                     if symbol.is_global() and 0 < table.get_lineno() < defined.get(symbol.get_name(), 0)]
        self.assertEqual(used, [])

    def test_two_handlers_are_broad_and_each_says_why(self) -> None:
        def names(node: Optional[ast.AST]) -> Any:
            found = ast.walk(node) if node else ()
            return {getattr(part, "id", getattr(part, "attr", "")) for part in found}

        broad = [node.lineno for node in ast.walk(self.tree)
                 if isinstance(node, ast.ExceptHandler)
                 and (node.type is None or names(node.type) & {"Exception", "BaseException"})
                 or isinstance(node, ast.Call) and "suppress" in names(node.func)
                 and any(names(argument) & {"Exception", "BaseException"} for argument in node.args)]
        lines = self.source.splitlines()
        for number in broad:
            self.assertIn("#", "".join(lines[number - 2:number + 1]), f"line {number}")
        places = {max(node.lineno for node in self.functions if node.lineno < number) for number in broad}
        self.assertLessEqual(len(places), 2, broad)

    def test_one_function_reads_the_environment(self) -> None:
        """Elsewhere it is the default of an argument."""
        def uses(node: ast.AST) -> set[ast.AST]:
            return {inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute)
                    and inner.attr in ("environ", "environb", "getenv", "expandvars")}

        readers = [node.name for node in self.functions if any(uses(statement) for statement in node.body)]
        self.assertLessEqual(len(readers), 1, readers)
        self.assertEqual(uses(self.tree), set().union(*map(uses, self.functions)), "used at module level")

    def imports(self, *roots: str) -> List[int]:
        """The lines that import one of these modules, or, without any, what is no part of Python."""
        lines = []
        for node in ast.walk(self.tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                is_found = any(f"{name}.".startswith(root + ".") for root in roots)
                if is_found or not roots and name.partition(".")[0] not in sys.stdlib_module_names:
                    lines.append(node.lineno)
        return lines

    def test_only_the_standard_library_is_used_and_no_lock_of_one_system(self) -> None:
        if sys.version_info >= (3, 10):
            self.assertEqual(self.imports(), [])
        self.assertEqual(self.imports("fcntl", "msvcrt", "subprocess", "multiprocessing"), [])
        self.assertEqual(self.source.count("ctypes."), 1, "for what threads of 3.8 load, and nothing else")

    def test_nothing_is_declared_more_narrowly_than_it_is_taken(self) -> None:
        """Cython takes `str` for exactly that, unless it is told not to; what a user's file holds for
        `project` may be anything, which those who check types at run time must let through."""
        self.assertIn("# cython: annotation_typing=False", self.source.partition('"""')[0].splitlines())
        for function in (Telemetry, codegen_telemetry.main):
            self.assertEqual(inspect.signature(function).parameters["project"].annotation, "Any")

    def test_network_has_one_place(self) -> None:
        banners = [number for number, line in enumerate(self.source.splitlines(), 1)
                   if re.fullmatch("# === [A-Z][a-z ]+: .+[?a-z] ===", line)]
        self.assertGreater(len(banners), 8)
        found = self.imports("socket", "ssl", "http", "asyncio", "_socket")
        self.assertEqual(len({sum(banner < line for banner in banners) for line in found}), 1, found)
        self.assertNotRegex(self.source, r"urlopen|build_opener|install_opener|[^_]create_connection\(")

    @unittest.skipIf(sys.version_info < (3, 10), "X | Y is not evaluated")
    def test_annotations_are_understood_at_run_time(self) -> None:
        wanted: List[Any] = []
        for node in ast.walk(self.tree):
            wanted += [getattr(node, field, None) for field in ("annotation", "returns")]
        wanted = [node for node in wanted if node]
        self.assertGreater(len(wanted), 200)
        for node in wanted:
            with self.subTest(line=node.lineno):
                eval(compile(ast.Expression(node), str(MODULE), "eval"), dict(vars(codegen_telemetry)))

    @unittest.skipIf(sys.version_info < (3, 10), "X | Y is not evaluated")
    def test_annotations_hold_for_what_is_passed_and_returned(self) -> None:
        code = textwrap.dedent(CHECKED) + textwrap.dedent("""
            import contextlib, io, os
            from codegen_telemetry import *
            telemetry = Telemetry(version="1.0", exit_wait=5)
            with contextlib.suppress(KeyError), telemetry.command("build", ["--watch"]) as running:
                running.update(generator_count=3)
                running.fail("network_error")
                telemetry.track("generator_used", options={"x": "y"}, input_source=input_source("/x"))
                raise KeyError
            delivered = telemetry.close(15)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                codes = [main(words.split()) for words in ("status", "status --json", "disable", "enable")]
                os.environ["CODEGEN_TELEMETRY_DEBUG"] = "1"
                Telemetry(Product(command="its")).track("init_executed")
            print(delivered, codes, *sorted(set(wrong)), sep="\\n")
            """)
        self.write_config()
        server = self.server()
        done, _ = self.run_code(code, self.environment(server), str(MODULE))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "True\n[0, 0, 0, 0]\n", ""))
        self.assertEqual(len(server.events), 3)

    def test_clocks_that_a_host_froze_or_mocked_disturb_nothing(self) -> None:
        frozen = """
            time.time = lambda: 1e9
            time.time_ns = lambda: 10 ** 18
            time.monotonic = time.perf_counter = lambda: 12.5
            time.monotonic_ns = time.perf_counter_ns = lambda: 12500000000
            time.gmtime = time.localtime = lambda *_: time.struct_time((2001, 9, 9, 1, 46, 40, 6, 252, 0))
            """
        mocked = "time.time = time.monotonic = time.perf_counter = mock.MagicMock()"
        patches = {"frozen after": ("", frozen), "mocked after": ("", mocked)}
        if hasattr(time, "clock_gettime"):  # else there is no other clock
            patches["frozen before"] = frozen, ""
        server, children = self.server(), []
        for number, (before, after) in enumerate(patches.values()):
            code = "\n".join(map(textwrap.dedent, (
                "import time", before,
                "from unittest import mock\nfrom codegen_telemetry import Telemetry, main", after, """
                telemetry = Telemetry()
                with telemetry.command("build"): pass
                print(telemetry.flush(15), main(["disable"]))
                """)))
            children.append(self.start(code, self.environment(server, **self.told_home(str(number)))))
        for name, done in zip(patches, self.ended(children)):
            with self.subTest(name):
                self.assertEqual((done.returncode, done.stdout), (0, "True 0\n"), done.stderr)
        self.assertEqual(len(server.events), len(patches))


INPUT_SOURCES = ("remote_url", "local_relative", "local_absolute")
ERROR_TYPES = ("configuration_error", "file_not_found", "network_error", "parse_error", "validation_error",
               "permission_error", "interrupted", "unknown_error")


def recorded(product: Product, *, version: Any = "1.0", **params: Any) -> Dict[str, Any]:
    """The parameters of a `seen` event that was recorded with these."""
    events: List[Dict[str, Any]] = []
    Telemetry(product, version=version, captured=events).track("seen", **params)
    (event,) = events
    return dict(event["params"])


class ProductTests(unittest.TestCase):
    """Who is speaking: a value that is right or can't be made."""

    def test_product_is_immutable(self) -> None:
        table: Any = {"seen": {"word": "word", "some": ["fast"], "options": {"mode": ("fast",)}}}
        product = Product(name="Its", command="its", events=table)
        for change in (lambda: setattr(product, "name", "x"), lambda: setattr(product, "extra", "x"),
                       lambda: delattr(product, "name")):
            self.assertRaises(AttributeError, change)
        for mapping in (product.events, product.events["seen"], product.events["seen"]["options"]):
            with self.assertRaises(TypeError):
                mapping["more"] = "flag"
        table["seen"]["some"].append("slow")
        table["seen"]["more"] = "flag"
        self.assertEqual(set(product.events["seen"]), {"word", "some", "options"})
        self.assertEqual(tuple(product.events["seen"]["some"]), ("fast",))

    def test_codegen_is_the_documented_product(self) -> None:
        ends = ("config.js config.ts config.mjs config.cjs json yaml yml js ts mjs cjs config.json").split()
        files = {f"codegen.{end}" for end in ends} | {".codegenrc", "package.json"} | {
            f".codegenrc.{end}" for end in ("json", "yaml", "yml")}
        fields = dict(name="The Codegen Project CLI", command="codegen", env_prefix="CODEGEN_TELEMETRY",
                      directory=".the-codegen-project",
                      docs_url="https://the-codegen-project.org/docs/telemetry",
                      endpoint="https://www.google-analytics.com/mp/collect", tracking_id="G-XXXXXXXXXX",
                      api_secret="", opt_in=False, opt_out="codegen telemetry disable")
        self.assertEqual({name: getattr(CODEGEN, name) for name in fields}, fields)
        self.assertIsInstance(CODEGEN.project_files, tuple)
        self.assertEqual(sorted(CODEGEN.project_files), sorted(files))
        self.assertEqual(CODEGEN, Product())
        params = {
            "command_executed": "command flags input_source input_type generators generator_count duration "
                                "success",
            "generator_used": "generator_type input_type input_source language options duration success",
            "init_executed": "config_type input_type generators language completed",
            "error_occurred": "command error_type"}
        self.assertEqual({event: set(table) for event, table in CODEGEN.events.items()},
                         {event: set(names.split()) for event, names in params.items()})
        kinds: Dict[str, Any] = {
            "input_source": INPUT_SOURCES, "input_type": ("asyncapi", "openapi", "jsonschema"),
            "error_type": ERROR_TYPES, "flags": "words", "generators": "words", "command": "word",
            "generator_type": "word", "language": "word", "config_type": "word", "generator_count": "count",
            "duration": "milliseconds", "success": "flag", "completed": "flag"}
        for event, table in CODEGEN.events.items():
            for name, kind in table.items():
                self.assertEqual(kind, kinds.get(name, kind), f"{event}.{name}")

    def test_another_product_shares_nothing_that_would_mix_two_tools_up(self) -> None:
        product = Product(command="its-tool")
        self.assertEqual((product.name, product.env_prefix, product.opt_out),
                         ("its-tool", "ITS_TOOL_TELEMETRY", "its-tool telemetry disable"))
        self.assertEqual((product.docs_url, product.project_files, product.opt_in), ("", (), False))
        self.assertNotEqual(product.directory, CODEGEN.directory)
        self.assertEqual(product.events, CODEGEN.events)
        self.assertNotIn("codegen", repr(product).lower().replace("codegen_telemetry", ""))
        own = Product(command="its", opt_in=True, opt_out="its --no-usage", project_files=("a.json", "b.yml"))
        self.assertEqual((own.opt_in, own.opt_out, own.project_files),
                         (True, "its --no-usage", ("a.json", "b.yml")))

    def test_refuses_what_analytics_would_refuse(self) -> None:
        reserved = """ad_activeview ad_click ad_exposure ad_query ad_reward adunit_exposure app_clear_data
            app_exception app_install app_remove app_store_refund app_update app_upgrade dynamic_link_app_open
            dynamic_link_app_update dynamic_link_first_open error firebase_campaign
            firebase_in_app_message_action firebase_in_app_message_dismiss firebase_in_app_message_impression
            first_open first_visit notification_dismiss notification_foreground notification_open
            notification_receive notification_send os_update session_start user_engagement""".split()
        names = ["", "a" * 41, "1a", "_a", "a b", "a-b", "ä", "aä", "a\n", "firebase_x", "ga_x", "google_x",
                 "gtag.x", 5]
        texts = """transaction_id affiliation coupon shipping_tier virtual_currency_name payment_type group_id
            character method search_term content_type item_id item_list_id item_list_name creative_name
            creative_slot location_id promotion_id promotion_name item_name achievement_id""".split()
        numbers = ["shipping", "tax", "level", "score"]
        kinds: List[Any] = ["text", "", "choice", None, 5, (), [], ("",), [""], (5,), [5], ("a" * 101,),
                            ["a" * 101], "WORD", {"mode": "word"}, object()]
        tables: List[Any] = [{name: {}} for name in reserved + names]
        tables += [{"seen": {name: "word"}} for name in [*names, "firebase_conversion", "items",
                                                         *sorted(COMMON)]]
        tables += [{"seen": {name: kind}} for name in numbers
                   for kind in ("word", "flag", "words", ("a", "b"), ["a", "b"])]
        tables += [{"seen": {name: kind}} for name in texts for kind in ("count", "flag", "milliseconds")]
        tables += [{"seen": {"value": "count"}}, {"seen": {"currency": "word"}}]
        tables += [{"seen": {"kind": kind}} for kind in kinds]
        tables += [{"seen": {f"p{number}": "flag" for number in range(19)}}]
        tables += [{"seen": {**{f"p{number}": "flag" for number in range(18)}, "more": more}}
                   for more in ({}, "options")]
        options: List[Any] = [{"c" * 10: {"o" * 32: ("x",)}}, {"b" * 39: "options"}, {"ga": "options"},
                              {"options": {"o b": ("x",)}}, {"options": {f"o{n}": ("x",) for n in range(19)}}]
        tables += [{"seen": params} for params in options]
        tables += [5, "seen", {"seen": "word"}, {"seen": None}]
        for table in tables:
            with self.subTest(events=table), self.assertRaises(ValueError):
                Product(command="its", events=table)

    def test_accepts_what_is_just_within_the_limits(self) -> None:
        for table in ({"a" * 40: {"b" * 40: "flag"}}, {"seen": {f"p{n}": "flag" for n in range(18)}}, {},
                      {"seen": {"level": "count", "method": "word", "character": ("a",), "coupon": ["a"]}},
                      {"Seen_2": {}}, {"seen": {"choice": ("a" * 100,), "several": ["a" * 100]}}):
            with self.subTest(events=table):
                self.assertEqual(set(Product(command="its", events=table).events), set(table))

    def test_refuses_malformed_identities(self) -> None:
        rows: List[Dict[str, Any]] = [dict(env_prefix=prefix) for prefix in ("1A", "A-B", "A B", "A=B", "Ä")]
        rows += [{field: text} for field in ("command", "name") for text in ("", " ", "a\nb", "a\x1b[0m")]
        rows += [dict(directory=""), dict(directory="a\nb"), dict(opt_out="a\nb"), dict(opt_out="a\x1b[0m")]
        rows += [{field: 5} for field in ("command", "name", "endpoint", "tracking_id", "api_secret",
                                          "opt_out", "docs_url", "directory", "opt_in", "project_files")]
        rows += [dict(opt_in="no"), dict(project_files="its.json"), dict(project_files=(5,))]
        for row in rows:
            with self.subTest(row), self.assertRaises(ValueError):
                Product(**{"command": "its", **row})
        for row in (dict(name="Its"), dict(name="Its", env_prefix="ITS", directory=".its")):
            with self.subTest(row), self.assertRaisesRegex(ValueError, "command"):
                Product(**row)  # which would speak for another tool
        self.assertRaises(TypeError, Product, "its")
        self.assertRaises(TypeError, lambda: Product(nonsense="x"))

    def test_commands_without_ascii_letters_do_not_share_a_folder_or_a_variable(self) -> None:
        own: Dict[str, Any] = dict(env_prefix="ITS_TELEMETRY", directory=".its-telemetry")
        for left_out in ("env_prefix", "directory"):
            with self.subTest(left_out), self.assertRaises(ValueError):
                Product(command="工具", **{**own, left_out: None})
        self.assertEqual(Product(command="工具", **own).name, "工具")

    def test_secret_is_not_in_the_representation(self) -> None:
        self.assertNotIn("s3cret", repr(Product(api_secret="s3cret")) + str(Product(api_secret="s3cret")))


def raised(error: BaseException, during: Optional[BaseException] = None,
           cause: Optional[BaseException] = None) -> Any:
    """The error as it is after it was raised, during the handling of another one or from a cause."""
    try:
        try:
            if during is not None:
                raise during
        finally:
            if cause is not None:
                raise error from cause
            raise error
    except BaseException as caught:
        return caught


class Exit(RuntimeError):
    """As click and typer have it."""

    def __init__(self, code: int = 0) -> None:
        self.exit_code = code


def group(*members: BaseException) -> Any:
    """An exception group; below Python 3.11 the smallest imitation of the backport's."""
    import builtins
    kind: Any = getattr(builtins, "BaseExceptionGroup", None)
    if kind:
        return kind("/etc/passwd", members)
    error = type("BaseExceptionGroup", (BaseException,), {})("/etc/passwd")
    error.exceptions = members
    return error


class ContextTests(BasicCase):
    """Where we are running, told without looking at anything private."""

    def test_ci_services_are_detected_by_their_variables(self) -> None:
        for name in ("GITHUB_ACTIONS GITLAB_CI CIRCLECI TRAVIS JENKINS_URL BITBUCKET_BUILD_NUMBER "
                     "CODEBUILD_BUILD_ID TEAMCITY_VERSION BUILDKITE CI CONTINUOUS_INTEGRATION").split():
            for value, expected in (("1", True), ("true", True), ("http://ci/", True), ("", False),
                                    ("false", False), (" FALSE ", False), ("0", False), ("no", False)):
                with self.subTest(name=name, value=value):
                    self.assertIs(codegen_telemetry.is_ci({name: value}), expected)
        rows: List[Any] = [({"PATH": "/ci", "CIX": "1"}, False), ({"CI": "", "BUILDKITE": "true"}, True),
                           ({"CI": "false", "BUILDKITE": "true", "GITHUB_ACTIONS": "true"}, False)]
        for environ, expected in rows:
            with self.subTest(environ):
                self.assertIs(codegen_telemetry.is_ci(environ), expected)
        code = "from codegen_telemetry import is_ci\nprint(is_ci())"
        children = [self.start(code, env) for env in (self.environment(), self.environment(CI="1"))]
        self.assertEqual([done.stdout for done in self.ended(children)], ["False\n", "True\n"])

    def test_events_say_whether_ci_and_which_agent_runs_the_tool(self) -> None:
        """A bool, and a word of a fixed table."""
        table: List[Any] = [
            ({}, "none"), ({"CI": "s3cret"}, "none"), ({"BUILDKITE": "1", "CI": "false"}, "none"),
            ({"CLAUDECODE": "1"}, "claude_code"), ({"CURSOR_AGENT": "1"}, "cursor"),
            ({"CURSOR_TRACE_ID": "s3cret"}, "cursor"), ({"GEMINI_CLI": "1"}, "gemini_cli"),
            ({"CODEX_SANDBOX": "seatbelt"}, "codex"), ({"AI_AGENT": "s3cret_tool"}, "other"),
            ({"AGENT": "/s3cret"}, "other"), ({"AI_AGENT": "", "AGENT": " ", "SSH_AGENT_PID": "1"}, "none"),
            ({"AI_AGENT": "s3cret", "CLAUDECODE": "1"}, "claude_code"), ({"MY_AGENT": "1"}, "none"),
            ({"AI_AGENT": "claude-code_2_s3cret"}, "claude_code"), ({"AI_AGENT": "cursor@s3cret"}, "cursor"),
            ({"AGENT": "gemini_cli"}, "gemini_cli"), ({"AGENT": "codexs3cret"}, "other")]
        code = """
            for variables in rows:
                os.environ.update(variables)
                answers.append(said(lambda: Telemetry().track("init_executed"))[2])
                for name in variables: del os.environ[name]
            """
        shown = self.ask(code, [row[0] for row in table], self.environment(CODEGEN_TELEMETRY_DEBUG="1"))
        for (variables, expected), text in zip(table, shown):
            with self.subTest(variables):
                self.assertIn(f'"agent": "{expected}"', text)
                self.assertIn('"ci": true' if variables.get("CI") == "s3cret" else '"ci": false', text)
                self.assertNotIn("s3cret", text)

    def test_input_source_tells_where_but_not_what(self) -> None:
        class Odd:
            def __init__(self, answer: Any) -> None:
                self.answer = answer

            def __fspath__(self) -> Any:
                if isinstance(self.answer, BaseException):
                    raise self.answer
                return self.answer

        table = {
            "remote_url": ["https://a.example/x.yaml", "HTTP://A", "http://[::1]/", "git+ssh://a/b",
                           "ftp://a/b", "s3://b/k", " https://a\n", b"https://a/\xff", Odd("https://a/b"),
                           "git@github.com:owner/name.git", "git@host:path", "me@host.example:a/b",
                           PureWindowsPath("https://a.example/x.yaml")],
            "local_absolute": ["/", "/etc/x.yaml", "C:\\x", "c:/x", "C:", "C:x", "\\\\server\\share",
                               "//server/share", "\\x", "\\\\?\\C:\\x", "~", "~/x", "~me/x", "file:///x",
                               "FILE:///C:/x", b"/\xff", Path("/x"), Odd("/x"), Odd(b"/x"), " /x", "/a@b:c",
                               PureWindowsPath("file:///x")],
            "local_relative": ["", ".", "..", "./x", "../x", "x.yaml", "a/b", "a\\b", "ab:c", "1:/x", "https",
                               "?", "\ud800", "http:x", Path("x"), b"x", "a@b", "./a@b:c", "a/b@c:d", None, 0,
                               [], {}, object(), Odd("x"), Odd(5), Odd(None), Odd(OSError()),
                               Odd(RecursionError()), float("nan"), "x" * 10 ** 6, "a@" * 10 ** 5]}
        for expected, values in table.items():
            for value in values:
                with self.subTest(repr(value)[:50]):
                    self.assertEqual(codegen_telemetry.input_source(value), expected)
        self.assertIn(codegen_telemetry.input_source(LyingText("/x")), INPUT_SOURCES)
        self.assertIn(codegen_telemetry.input_source(Raising()), INPUT_SOURCES)

    def check_error_types(self, table: Mapping[str, Sequence[Any]]) -> None:
        for expected, values in table.items():
            for number, value in enumerate(values):
                with self.subTest(expected=expected, number=number):
                    self.assertEqual(codegen_telemetry.error_type(value), expected)

    def test_error_type_goes_by_the_type_and_never_by_the_message(self) -> None:
        import asyncio
        import configparser
        import urllib.error

        class Mute(ValueError):
            def __str__(self) -> str:
                raise RuntimeError

            __repr__ = __str__

        def named(name: str, *bases: type) -> Any:
            return type(name, bases or (Exception,), {})("/etc/passwd: permission denied")

        class Meta(type):
            def __getattribute__(cls, name: str) -> Any:
                raise RuntimeError

        class Hostile(Exception, metaclass=Meta):
            pass

        table = {
            "file_not_found": [FileNotFoundError(), OSError(2, "x"), named("Missing", FileNotFoundError)],
            "permission_error": [PermissionError(), OSError(13, "x"), named("Denied", PermissionError)],
            "network_error": [ConnectionError(), ConnectionRefusedError(), TimeoutError(), socket.timeout(),
                              socket.gaierror(), urllib.error.URLError("x"), ssl.SSLError(),
                              named("HTTPError"), named("ReadTimeout", named("RequestException").__class__)],
            "parse_error": [json.JSONDecodeError("x", "", 0), SyntaxError(),
                            UnicodeDecodeError("ascii", b"", 0, 1, "x"),
                            named("YAMLError"), named("ScannerError", named("YAMLError").__class__)],
            "configuration_error": [configparser.Error(), configparser.MissingSectionHeaderError("x", 1, "x"),
                                    named("ConfigError"), named("ConfigurationError", ValueError)],
            "validation_error": [ValueError(), Mute(), named("ValidationError"), named("Mine", ValueError)],
            "interrupted": [KeyboardInterrupt(), asyncio.CancelledError()],
            "unknown_error": [Exception(), RuntimeError("permission denied"), named("Custom"), SystemExit(1),
                              GeneratorExit(), Hostile(), Hostile, MemoryError(), ZeroDivisionError(), None,
                              "FileNotFoundError", 5, object(), type, Raising()]}
        self.check_error_types(table)
        self.assertEqual(set(table), set(ERROR_TYPES))

    def test_an_exit_is_of_the_type_that_it_was_raised_from_or_during(self) -> None:
        missing, denied = FileNotFoundError(), PermissionError()
        suppressed = raised(SystemExit(1), missing)
        suppressed.__suppress_context__ = True  # raised "from None"
        circle = SystemExit(1)
        circle.__context__, circle.__cause__ = SystemExit(2), circle
        circle.__context__.__context__ = circle

        class Empty(FileNotFoundError):
            def __len__(self) -> int:
                return 0

        self.check_error_types({
            "file_not_found": [raised(SystemExit(1), missing), raised(SystemExit("x"), cause=missing),
                               raised(Exit(1), missing), raised(Exit(2), cause=missing),
                               raised(SystemExit(1), denied, missing),
                               raised(SystemExit(1), raised(Exit(1), missing)), suppressed,
                               raised(SystemExit(1), Empty()), raised(Exit(1), cause=Empty())],
            "permission_error": [raised(SystemExit(1), group(denied))],
            "interrupted": [raised(SystemExit(130), KeyboardInterrupt()),
                            raised(Exit(1), group(denied, KeyboardInterrupt()))],
            "validation_error": [raised(ValueError(), missing), raised(ValueError(), cause=denied)],
            "unknown_error": [SystemExit(1), Exit(1), circle, raised(RuntimeError(), missing),
                              raised(SystemExit(1), KeyError())]})

    def test_a_group_is_of_the_type_of_its_first_member_that_has_one(self) -> None:
        missing, denied, unknown = FileNotFoundError(), PermissionError(), KeyError()
        deep = group(denied)
        for _ in range(3000):
            deep = group(deep)
        self.check_error_types({
            "permission_error": [group(denied), group(unknown, denied, missing),
                                 group(group(unknown), group(group(denied))),
                                 group(raised(SystemExit(1), denied)), deep],
            "file_not_found": [group(missing, denied)],
            "interrupted": [group(KeyboardInterrupt()), group(denied, group(unknown, KeyboardInterrupt())),
                            group(denied, *[unknown] * 3000, KeyboardInterrupt())],
            "unknown_error": [group(unknown), group(group(RuntimeError(), unknown))]})


def answering(value: Any) -> Any:
    """A method that gives this answer whatever it is asked."""
    return lambda *ignored: value


def refusing(*ignored: Any) -> Any:
    raise RuntimeError("/etc/passwd")


class LyingText(str):
    """A text that says it is another one."""

    __str__ = __repr__ = __format__ = lower = strip = lstrip = encode = answering("/etc/passwd")
    __eq__, __hash__, __len__, __iter__ = answering(True), str.__hash__, answering(1), answering(iter("ab"))


class LyingNumber(int):
    __str__ = __repr__ = __int__ = __index__ = __round__ = answering("/etc/passwd")
    __lt__ = __gt__ = __le__ = __ge__ = answering(True)


class Raising:
    """It raises whatever it is asked."""

    __getattr__ = __iter__ = __eq__ = __hash__ = __bool__ = __str__ = __repr__ = __len__ = refusing
    __float__ = __int__ = __index__ = __round__ = __fspath__ = __format__ = refusing


class RaisingTable(Dict[str, Any]):
    items = keys = __iter__ = __len__ = __getitem__ = refusing


class Claiming:
    """An object that claims to be of another class."""

    def __init__(self, claimed: type) -> None:
        self.claimed = claimed

    @property
    def __class__(self) -> Any:
        return object.__getattribute__(self, "claimed")


class Whole:
    """A number as numpy's integers are: no `int`, but an index."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def __index__(self) -> Any:
        return self.number


def late_raising() -> Any:
    yield "--watch"
    raise RuntimeError


def nested(levels: int) -> Any:
    table: Dict[str, Any] = {}
    for _ in range(levels):
        table = {"a": table}
    return table


class EventTests(BasicCase):
    """Only what is declared leaves, and in the declared shape."""

    product = Product(name="Its", command="its", events={"other_event": {}, "seen": {
        "flag": "flag", "count": "count", "ms": "milliseconds", "choice": ("fast", "slow walk"),
        "word": "word", "words": "words", "several": ["fast", "slow walk", "a" * 40, "b" * 40, "c" * 40],
        "options": {"mode": ("fast", "slow"), "level": ("high",)}}})

    def check(self, name: str, table: Sequence[Any]) -> None:
        """Each (value, expected) holds; None stands for a parameter that is dropped."""
        for number, (value, expected) in enumerate(table):
            with self.subTest(name=name, number=number):
                params = recorded(self.product, **{name: value})
                found = {key: held for key, held in params.items() if key not in COMMON}
                wanted = {} if expected is None else {name: expected}
                wanted = expected if isinstance(expected, dict) else wanted
                self.assertEqual(json.dumps(found), json.dumps(wanted))

    def test_flag_holds_a_bool(self) -> None:
        self.check("flag", [(True, True), (False, False), *((value, None) for value in (
            1, 0, None, "true", [], Raising(), Claiming(bool), LyingNumber(1)))])

    def test_count_and_milliseconds_hold_a_bounded_whole_number(self) -> None:
        from enum import IntEnum
        table = [(0, 0), (1, 1), (10 ** 9, 10 ** 9), (1e9, 10 ** 9), (1.4, 1), (1.6, 2), (0.2, 0), (-0.0, 0),
                 (999999999.6, 10 ** 9), (LyingNumber(7), 7), (IntEnum("Level", "LOW HIGH").HIGH, 2),
                 (Whole(7), 7), (Whole(0), 0)]
        dropped = [10 ** 9 + 1, -1, -0.6, 1e9 + 1, 10 ** 400, float("nan"), float("inf"), -float("inf"), True,
                   False, None, "5", b"5", [], {}, 1j, Raising(), Claiming(int), LyingNumber(10 ** 10),
                   LyingNumber(-1), Whole(-1), Whole(10 ** 10), Whole("5"), Whole(None)]
        for name in ("count", "ms"):
            self.check(name, [*table, *((value, None) for value in dropped)])

    def test_choice_holds_a_declared_word(self) -> None:
        self.check("choice", [("fast", "fast"), ("slow walk", "slow walk"), *((value, "other") for value in (
            "FAST", "fast ", "", None, 5, True, b"fast", ["fast"], {"fast": 1}, "x" * 10000, "\ud800",
            LyingText("/x"), nested(2000)))])
        self.assertIn(recorded(self.product, choice=Raising()).get("choice", "other"), ("other",))

    def test_a_list_of_words_declares_several(self) -> None:
        words = [letter * 40 for letter in "abc"]
        self.check("several", [
            (["fast"], "fast"), (["slow walk", "fast"], "slow walk,fast"), (["fast", "fast"], "fast"),
            (("fast", "slow walk", "fast"), "fast,slow walk"), (iter(["fast"]), "fast"), ([], "none"),
            (["fast", "/etc/passwd"], "fast,other"), (["x", "FAST", "fast", None, 5], "other,fast"),
            (words[:2], ",".join(words[:2])), (words, ",".join(words[:2])), (["fast"] * 500, "fast"),
            ([LyingText("/x")], "other"), ([b"fast", ["fast"], Claiming(str)], "other")])

    def test_word_holds_what_an_author_chose(self) -> None:
        good = ["generate", "a", "a" * 32, "aB-_9", "a123", "x-y_z", "camelCase"]
        bad = ["", "a" * 33, "a1234", "Abc", "1a", "-a", "_a", "a.b", "a/b", "a b", "a\n", "ä", "aä",
               "a\u0661", "a\ud800", "/etc/passwd", "C:\\x", "me@example.com", "a=b", "x" * 10000, None,
               5, True, b"abc", ["abc"], LyingText("/x"), nested(2000), Claiming(str)]
        self.check("word", [*((text, text) for text in good), *((value, "other") for value in bad)])

    def test_words_are_joined_without_their_values(self) -> None:
        import itertools
        three = ",".join(letter * 32 for letter in "abc")
        self.check("words", [
            (["--watch", "-v"], "watch,v"), (("b", "a", "b"), "b,a"), ([], "none"), ((), "none"),
            (iter(()), "none"), (["--out=/etc/passwd", "--out", "-o=x"], "out,o"),
            (["/etc/passwd", "x y", "ok", ""], "other,ok"), (["---", "=x", None, 5, b"x", ["x"]], "other"),
            (["--watch", "/a", "--watch"], "watch,other"), ((f"--{c}" for c in "ab"), "a,b"),
            ("--watch", "watch"), ("/etc/passwd", "other"), (None, "none"), (["a"] * 500 + ["b"], "a,b"),
            ([*three.split(","), "d"], three + ",d"), ([*three.split(","), "dd"], three),
            (itertools.repeat("a"), "a"),
            (itertools.count(), "other"), (["--" + "x" * 10 ** 6], "other"), (["--a=" + "x" * 10 ** 6], "a"),
            ([LyingText("/etc")], "other"), ([LyingText("--ok=/etc")], "ok"),
            ({"a": "/etc/passwd"}, "a"), (["a\ud800", "b"], "other,b")])
        many = [f"w{c}" + "x" * n for n in range(30) for c in "abcdefgh"]
        self.assertRegex(recorded(self.product, words=many)["words"], r"^(?=.{80,100}$)w[a-h]x*(,w[a-h]x*)*$")
        for value in (late_raising(), Raising(), ["a", Raising()], Claiming(list), 5):
            self.assertIn(recorded(self.product, words=value).get("words", "none"),
                          ("other", "none", "watch", "a,other"))

    def test_options_become_a_parameter_each(self) -> None:
        def flat(**options: Any) -> Dict[str, Any]:
            return {f"options_{name}": value for name, value in options.items()}

        self.check("options", [
            ({"includeValidation": True, "dry-run": False}, flat(includeValidation=True, dry_run=False)),
            ({"mode": "fast", "deep": {"a": 1}, "list": [1], "n": 3, "on": True, "path": "/x", "no": None},
             flat(mode="fast", n=3, on=True, path="custom")),
            ({"mode": "FAST", "level": "high", "other": "fast", "half": 1.5, "whole": Whole(7)},
             flat(mode="custom", level="high", other="custom", half=1.5, whole=7)),
            ({"a b": 1, "Up": 1, "/x": 1, "": 1, "a1234": 1, 5: 1, None: 1, b"x": 1, (1,): 1, "ä": 1}, {}),
            ({"a": float("nan"), "b": float("inf"), "c": 10 ** 400, "d": b"x", "e": object(), "f": 1j}, {}),
            ({"a": LyingText("/x"), "b": LyingNumber(7), "c": Raising(), "d": Claiming(bool), "e": "x" * 999},
             flat(a="custom", b=7, e="custom")),
            ({"a" * 32: 1}, flat(**{"a" * 32: 1})), ({"a" * 33: 1}, {}), ({}, {}), (None, {}),
            ([("mode", "fast")], {}), ("mode", {}), (nested(2000), {}), (RaisingTable(a=1), {}),
            (Raising(), {})])

    def test_options_share_the_room_that_analytics_leaves_and_take_nobodys_place(self) -> None:
        table: Any = {"seen": {"a": "options", "b": {}, "c": "count", "a_x": "count"}}
        product = Product(command="its", events=table)
        many = {x + y: 1 for x in "abcde" for y in "abcde"}
        for a, b in ((many, many), ({}, many), (many, {"x": 1})):
            params = recorded(product, a=a, b=b, c=1)
            self.assertTrue(22 <= len(params) <= 25, params)
            self.assertEqual((params["c"], any(name.startswith("b_") for name in params)), (1, True))
        params = recorded(product, a={"x": "zzz", "more": 1}, a_x=3)
        self.assertEqual((params["a_x"], params["a_more"]), (3, 1))

    def test_every_event_says_what_ran_and_nothing_more(self) -> None:
        class Formatless(str):
            def __format__(self, how: str) -> str:
                raise RuntimeError

            __str__ = __format__

        bad = ["", "/etc/passwd", "1.0\n", "1 0", "x" * 101, "me@host", "ä", None, 5, ["1"], Raising()]
        rows: List[Any] = [("0.57.0", ["0.57.0"]), ("1.0.0-rc.1+x", ["1.0.0-rc.1+x"]),
                           (Formatless("1.0"), ["1.0", "unknown"]), (LyingText("1.0"), ["1.0", "unknown"]),
                           *((text, ["unknown"]) for text in bad)]
        for number, (version, expected) in enumerate(rows):
            with self.subTest(number=number):
                events: List[Dict[str, Any]] = []
                before = time.time()
                Telemetry(self.product, version=version, captured=events).track("seen", ms=1234.4)
                (event,) = events
                params = event["params"]
                self.assertEqual((set(event), set(params) - {"ms"}),
                                 ({"name", "timestamp_micros", "params"}, COMMON))
                self.assertIn(params["cli_version"], expected)
                self.assertEqual((params["python_version"], params["os"], params["engagement_time_msec"]),
                                 ("%d.%d.%d" % sys.version_info[:3], sys.platform, 1234))
                self.assertEqual((type(params["ci"]), type(params["session_id"])), (bool, int))
                self.assertTrue(0 < params["session_id"] <= time.time())
                recorded_at = event["timestamp_micros"] / 1e6
                self.assertTrue(before - 0.02 < recorded_at <= time.time(), recorded_at - before)
        self.assertEqual(recorded(self.product)["engagement_time_msec"], 1)

    def test_time_stamps_differ_and_tell_nothing_of_the_process(self) -> None:
        code = """
            import time
            time.time, time.time_ns = lambda: 1.7e9, lambda: 1700000000 * 10 ** 9
            import os
            from codegen_telemetry import Telemetry
            events = []
            telemetry = Telemetry(captured=events)
            for _ in range(50): telemetry.track("init_executed")
            print(os.getpid(), *(event["timestamp_micros"] for event in events))
            """
        children = [self.start(code, self.environment(), flags=("-S",)) for _ in range(5)]
        found = [[int(text) for text in done.stdout.split()] for done in self.ended(children)]
        for _, *stamps in found:
            self.assertEqual(len(set(stamps)), 50)
            self.assertTrue(all(0 <= 1700000000 * 10 ** 6 - stamp < 20000 for stamp in stamps), stamps)
        for size in (16, 32, 64, 100, 128, 256, 512, 1000, 1024):
            self.assertGreater(len({(row[1] - row[0]) % size for row in found}), 1, f"modulo {size}")

    @staticmethod
    def generated(chosen: random.Random, depth: int = 0) -> Any:
        """Any value."""
        texts = ["/etc/passwd", "C:\\Users\\me", "https://me:pw@host/x?y", "me@example.com", "generate",
                 "--out=/tmp/x", "550e8400-e29b-41d4-a716-446655440000", "x" * 10000, "a\ud800/", "\n\x00/",
                 "/", "", "asyncapi", "a/b", "json", "remote_url", "file_not_found", "0/1", "\u2215/", "a,b"]
        value = partial(EventTests.generated, chosen, depth + 1)
        kind = chosen.randrange(10 if depth < 3 else 6)
        if kind == 0:
            return chosen.choice([True, False, None, object(), b"/x", 1j, 10 ** 400, float("nan"),
                                  float("inf"), Raising(), LyingText("/x"), LyingNumber(5), Claiming(str),
                                  Whole(5), Whole("/")])
        if kind == 1:
            return chosen.uniform(-10, 2 * 10 ** chosen.randrange(12))
        if kind < 6:
            return chosen.choice(texts)
        if kind == 6:
            return Path(chosen.choice(["/etc/x", "a/b"]))
        if kind == 7:
            return {chosen.choice([*texts, "mode", f"k{n}"]): value() for n in range(chosen.randrange(30))}
        return chosen.choice([list, tuple, iter])([value() for _ in range(chosen.randrange(40))])

    def check_event(self, product: Product, event: Dict[str, Any]) -> None:
        declared = set(product.events[event["name"]]) | COMMON
        for name, value in event["params"].items():
            where = f"TEST_SEED={SEED} {name}={value!r} in {event}"
            self.assertTrue(name in declared or name.startswith("options_"), where)
            self.assertRegex(name, r"^[A-Za-z][A-Za-z0-9_]{0,39}$", where)
            self.assertIn(type(value), (str, int, float, bool), where)
            if isinstance(value, str):
                self.assertRegex(value, r"^[A-Za-z0-9][A-Za-z0-9_,. -]{0,99}$", where)
            elif not isinstance(value, bool):
                least = -10 ** 9 if name.startswith("options_") else 0
                self.assertTrue(least <= value <= time.time(), where)
        self.assertLessEqual(len(event["params"]), 25, f"TEST_SEED={SEED} {event}")

    def test_whatever_is_passed_only_declared_harmless_values_are_recorded(self) -> None:
        chosen, events = random.Random(SEED), []
        for product in (CODEGEN, self.product):
            telemetry = Telemetry(product, version=" /opt/x", captured=events)
            for number in range(200):
                event = chosen.choice(list(product.events))
                names = list(product.events[event])
                del events[:]
                telemetry.track(event, **{name: self.generated(chosen) for name in
                                          chosen.sample(names, chosen.randrange(len(names) + 1))})
                self.assertEqual(len(events), 1, f"TEST_SEED={SEED}")
                self.check_event(product, events[0])
                json.dumps(events, allow_nan=False)

    # Everything that a host should not pass.
    HOSTILE = """
        from this_file import *
        import random
        chosen = random.Random(SEED)
        telemetry = Telemetry(EventTests.product)
        calls = [lambda: telemetry.track(None), lambda: telemetry.track(5), lambda: telemetry.track([]),
                 lambda: telemetry.track("nope"), lambda: telemetry.track(""),
                 lambda: telemetry.track(Raising()),
                 lambda: telemetry.track("seen", self=1, event=2, name=3, nope=Raising()),
                 lambda: telemetry.track("seen", **{"\\ud800": 1, "": 2, "a b": Raising()}),
                 lambda: Telemetry(EventTests.product, project=Raising()).track("seen"),
                 lambda: Telemetry(EventTests.product, version=Raising()).track("seen"),
                 lambda: Telemetry(EventTests.product, exit_wait="x").track("other_event")]
        for _ in range(60):
            params = {name: EventTests.generated(chosen) for name in
                      chosen.sample([*EventTests.product.events["seen"], "/x", "url", "os"], 5)}
            calls.append(partial(telemetry.track, "seen", **params))
        answers = [said(call) for call in calls]
        answers.append(telemetry.close(15))
        """

    def test_track_never_raises_and_prints_nothing(self) -> None:
        server = self.server()
        code = self.HOSTILE.replace("this_file", Path(__file__).stem)
        env = self.environment(ITS_TELEMETRY_ENDPOINT=server.url, TEST_SEED=str(SEED),
                               USER="hunter2", SOME_TOKEN="hunter2")
        self.folder = self.home / self.product.directory
        self.config = self.folder / "config.json"
        self.write_config()
        *answers, delivered = self.ask(code, [], env)
        self.assertEqual(answers, [[None, "", ""]] * len(answers), f"TEST_SEED={SEED}")
        self.assertIs(delivered, True)
        self.assertGreater(len(server.events), 60)
        for event in server.events:
            self.check_event(self.product, event)
        text = json.dumps(server.requests)
        for private in (str(self.home), "hunter2", "passwd", "example.com"):
            self.assertNotIn(private, text)
        self.assertEqual(len({event["timestamp_micros"] for event in server.events}), len(server.events))


class CommandTests(BasicCase):
    """What a command records at its end, as the tests of a host see it."""

    def command(self, body: Any, product: Product = CODEGEN, **params: Any) -> Any:
        """What a command raised whose block is `body`, and the events that it recorded."""
        events: List[Dict[str, Any]] = []
        try:
            with Telemetry(product, captured=events).command("build", **params) as running:
                body(running)
        except BaseException as error:
            return error, events
        return None, events

    def check_failure(self, events: List[Dict[str, Any]], category: str) -> None:
        """One failed command, and after it its error."""
        self.assertEqual([event["name"] for event in events], ["command_executed", "error_occurred"])
        executed, occurred = (event["params"] for event in events)
        self.assertEqual((executed["command"], executed["success"]), ("build", False))
        self.assertEqual((occurred["command"], occurred["error_type"]), ("build", category))

    @staticmethod
    def raising(error: BaseException) -> Any:
        def body(running: Any) -> None:
            raise error
        return body

    def test_a_command_that_ends_well_is_one_event(self) -> None:
        for error in (None, SystemExit(), SystemExit(0), Exit(), SystemExit(False)):
            with self.subTest(repr(error)):
                came, events = self.command(self.raising(error) if error else lambda running: None,
                                            flags=["--watch", "-o=/x"], input_type="openapi")
                self.assertIs(came, error)
                (event,) = events
                params = event["params"]
                self.assertEqual((event["name"], params["command"], params["flags"], params["input_type"]),
                                 ("command_executed", "build", "watch,o", "openapi"))
                self.assertIs(params["success"], True)
                self.assertTrue(0 <= params["duration"] < 10000)
                self.assertEqual(params["engagement_time_msec"], max(1, params["duration"]))

    def test_a_command_that_fails_is_followed_by_its_error_which_goes_on_untouched(self) -> None:
        class Lies(Exception):
            __class__ = property(lambda self: SystemExit)

        class Odd(SystemExit):
            code = property(lambda self: {}["x"])

        table: List[Any] = [
            (ValueError("/x"), "validation_error"), (KeyboardInterrupt(), "interrupted"),
            (GeneratorExit(), "unknown_error"), (SystemExit(1), "unknown_error"), (Exit(1), "unknown_error"),
            (SystemExit(""), "unknown_error"), (raised(SystemExit(1), FileNotFoundError()), "file_not_found"),
            (raised(Exit(3), cause=PermissionError()), "permission_error"),
            (group(KeyError(), TimeoutError()), "network_error"), (group(KeyboardInterrupt()), "interrupted"),
            (Lies(), "unknown_error"), (Odd(), "unknown_error")]
        for error, category in table:
            with self.subTest(kind=type(error).__name__, category=category):
                context, cause = error.__context__, error.__cause__
                came, events = self.command(self.raising(error))
                self.assertIs(came, error)
                self.assertEqual((came.__context__, came.__cause__), (context, cause))
                frames = []
                trace = came.__traceback__
                while trace:
                    frames.append(trace.tb_frame.f_code.co_filename)
                    trace = trace.tb_next
                self.assertNotIn(str(MODULE), frames)
                self.check_failure(events, category)

    def test_fail_tells_of_what_the_tool_printed_itself(self) -> None:
        table: List[Any] = [
            (FileNotFoundError("/x"), "file_not_found"), ("network_error", "network_error"),
            (KeyboardInterrupt(), "interrupted"), (group(PermissionError()), "permission_error"),
            (raised(SystemExit(1), PermissionError()), "permission_error"), (KeyError(), "unknown_error"),
            ("no such file: /x", "unknown_error"), (None, "unknown_error"), (Raising(), "unknown_error")]
        for error, category in table:
            for exit_error in (None, SystemExit(0), Exit(2), raised(SystemExit(2), ValueError())):
                with self.subTest(category=category, exit=repr(exit_error)):
                    def body(running: Any) -> None:
                        running.fail(error)
                        if exit_error:
                            raise exit_error

                    came, events = self.command(body)
                    self.assertIs(came, exit_error)
                    self.check_failure(events, category)

    def test_update_adds_what_is_known_only_later_and_the_time_is_that_of_the_block(self) -> None:
        events: List[Dict[str, Any]] = []
        command = Telemetry(captured=events).command("generate", generator_count=1)
        command.update(input_type="openapi")
        began = time.monotonic()
        with command as running:
            running.update(generator_count=3)
            running.update(generators=["a"], input_source="remote_url")
            threading.Event().wait(0.03)
        elapsed = time.monotonic() - began
        (event,) = events
        self.assertTrue(29 <= event["params"]["duration"] <= elapsed * 1000 + 1)
        found = {name: event["params"][name] for name in ("input_type", "generator_count", "generators",
                                                          "input_source", "success")}
        self.assertEqual(found, dict(input_type="openapi", generator_count=3, generators="a",
                                     input_source="remote_url", success=True))

    def test_what_is_not_declared_is_an_error_in_the_tests_of_a_host(self) -> None:
        telemetry = Telemetry(captured=[])
        rows: List[Any] = [("comand_executed", {}), ("", {"completed": True}), ("init_executed", {"nope": 1}),
                           ("init_executed", {"ci": True})]
        for event, params in rows:
            self.assertRaises(ValueError, telemetry.track, event, **params)
        for error, _ in (self.command(lambda running: None, nope=1),
                         self.command(lambda running: running.update(nope=1))):
            self.assertIsInstance(error, ValueError)

    def test_what_a_command_adds_by_itself_is_left_out_where_it_is_not_declared(self) -> None:
        table: Any = {"command_executed": {"command": ("build",)}}
        product = Product(command="its", events=table)
        for body in (lambda running: None, self.raising(KeyError()), lambda running: running.fail(None)):
            came, events = self.command(body, product, flags=["--watch"])
            self.assertIsInstance(came, (type(None), KeyError))
            self.assertEqual([set(event["params"]) - COMMON for event in events], [{"command"}])

    def test_captured_needs_no_consent_and_touches_nothing(self) -> None:
        code = """
            import sys, threading
            import codegen_telemetry, json
            events = []
            telemetry = codegen_telemetry.Telemetry(captured=events, project={"enabled": False})
            with telemetry.command("build"): telemetry.track("init_executed", completed=True)
            telemetry.close()
            telemetry.track("init_executed")  # nothing is recorded any more
            loaded = {"urllib.request", "http.client", "socket", "ssl"} & set(sys.modules)
            print(telemetry.enabled, [event["name"] for event in events], threading.active_count(), loaded)
            """
        server, children = self.server(), []
        for variable in ("DO_NOT_TRACK", "CODEGEN_TELEMETRY_DEBUG", "PYTEST_VERSION", "CI"):
            env = self.environment(server, **{variable: "1"})
            children.append(self.start(code, env, flags=("-W", "error", "-S")))
        for done in self.ended(children):
            self.assertEqual((done.returncode, done.stdout, done.stderr),
                             (0, "True ['init_executed', 'command_executed'] 1 set()\n", ""))
        self.assertEqual((self.listing(), server.requests), ([], []))

    def test_captured_is_what_would_be_on_the_wire(self) -> None:
        self.write_config()
        server = self.server()
        code = """
            import json
            from codegen_telemetry import Telemetry
            params = dict(generator_type="payloads", language="/x", options={"on": True, "x": "/y"})
            events = []
            for more in {"captured": events}, {"exit_wait": 15}:
                telemetry = Telemetry(version="1.0", **more)
                telemetry.track("generator_used", duration=12, **params)
            print(json.dumps(events))
            """
        done, _ = self.run_code(code, self.environment(server))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        (captured,), (sent,) = json.loads(done.stdout), server.events
        for event in (captured, sent):
            self.assertIsInstance(event.pop("timestamp_micros"), int)
        self.assertEqual(captured, sent)

    def test_exit_waits_for_nothing_where_ctrl_c_is_in_a_group(self) -> None:
        self.write_config()
        closing = threading.Event()
        self.addCleanup(closing.set)
        server = self.server(lambda handler: closing.wait(WAIT))
        code = f"""
            import atexit, sys, time
            began = time.monotonic()
            atexit.register(lambda: print(time.monotonic() - began))  # runs last
            from {Path(__file__).stem} import Telemetry, group
            with Telemetry(exit_wait=15).command("build"):
                time.sleep(.3)  # so that the network code is loaded
                began = time.monotonic()
                raise group(KeyError(), KeyboardInterrupt())
            """
        done, _ = self.run_code(code, self.environment(server))
        self.assertEqual(done.returncode, 1)
        self.assertIn("BaseExceptionGroup", done.stderr)
        self.assertNotIn("telemetry.py", done.stderr)
        self.assertLess(float(done.stdout), 0.7)


class Gate:
    """A proxy that answers everything it is asked with 502; `asked` holds the heads of the requests."""

    def __init__(self, case: unittest.TestCase) -> None:
        self.asked: queue.Queue[str] = queue.Queue()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._socket.getsockname()[1]
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        case.addCleanup(thread.join, WAIT)
        case.addCleanup(self.close)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            socket.create_connection(self._socket.getsockname(), 1).close()  # wakes the thread

    def _serve(self) -> None:
        with self._socket:
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        more = connection.recv(4096)
                        if not more:
                            break
                        head += more
                    if not head:
                        return
                    self.asked.put(head.decode("latin-1"))
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


class Tunnel(Gate):
    """A proxy that connects everybody to `target`."""

    target = ("127.0.0.1", 9)

    def _answer(self, connection: socket.socket) -> None:
        with socket.create_connection(self.target, WAIT) as other:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self._copy, args=(other, connection), daemon=True)
            back.start()
            self._copy(connection, other)
            back.join(WAIT)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            data = source.recv(65536)
            while data:
                target.sendall(data)
                data = source.recv(65536)
            target.shutdown(socket.SHUT_WR)


# What tools for tracing do to a host's network classes, each as small as it can be; `seen` is what they note.
TRACERS = """
    import http.client, urllib.request
    seen = []
    def around(owner, name, patch):
        real = getattr(owner, name)
        def patched(self, *args, **kwargs): return patch(real, self, *args, **kwargs)
        setattr(owner, name, patched)
    def putrequest(real, self, method, url, *args, **kwargs):  # Sentry
        seen.append(url)
        real(self, method, url, *args, **kwargs)
        self.putheader("baggage", "sentry-release=commit")
    def opening(real, self, url, data=None, timeout=None):  # OpenTelemetry
        request = urllib.request.Request(url, data) if isinstance(url, str) else url
        seen.append(request.full_url)
        request.headers["Traceparent"] = "00-1-1-01"
        return real(self, request, data, timeout)
    def do_open(real, self, kind, request, **more):  # Elastic
        request.add_header("Elastic-Apm-Traceparent", "00-1-1-01")
        request.add_unredirected_header("Tracestate", "es=s:1")
        return real(self, kind, request, **more)
    def endheaders(real, self, *args, **kwargs):  # New Relic
        self.putheader("newrelic", "eyJ2Ijpb")
        return real(self, *args, **kwargs)
    def sending(real, self, method, url, body=None, headers={}, **more):  # Datadog
        headers["x-datadog-trace-id"] = "1"
        return real(self, method, url, body, headers, **more)
    around(http.client.HTTPConnection, "putrequest", putrequest)
    around(urllib.request.OpenerDirector, "open", opening)
    around(urllib.request.AbstractHTTPHandler, "do_open", do_open)
    around(http.client.HTTPConnection, "endheaders", endheaders)
    around(http.client.HTTPConnection, "request", sending)
    class Own(urllib.request.HTTPHandler):
        def http_request(self, request):
            request.add_header("X-Own", "1")
            return request
    urllib.request.install_opener(urllib.request.build_opener(Own))
    http.client.HTTPConnection.debuglevel = 1
    """
# As eventlet does: sockets are of another class, some of whose methods only an object has; no poll is left;
# to join a thread for a while raises what is no Exception.
GREEN = """
    import select, socket, threading
    def joined(self, timeout=None, _join=threading.Thread.join):
        _join(self, timeout)
        if timeout is not None: raise GeneratorExit("timeout")
    threading.Thread.join = joined
    class Green:
        fd = None
        def __init__(self, family=socket.AF_INET, *args, _real=socket.socket, **kwargs):
            self.fd = _real(family, *args, **kwargs) if isinstance(family, int) else family
            for name in "bind close fileno getsockname getsockopt listen setsockopt shutdown".split():
                setattr(self, name, getattr(self.fd, name))
        def __getattr__(self, name):
            if self.fd is None: raise AttributeError(name)
            return getattr(self.fd, name)
    def forward(name):
        def method(self, *args, **kwargs): return getattr(self.fd, name)(*args, **kwargs)
        setattr(Green, name, method)
    for name in "connect connect_ex makefile recv recv_into send sendall settimeout gettimeout".split():
        forward(name)
    socket.socket = Green
    for name in ("poll", "epoll", "kqueue", "devpoll"):
        if hasattr(select, name): delattr(select, name)
    """


class WireTests(ToldCase):
    """What the other side sees."""

    OURS = {"content-type", "content-length", "user-agent", "host", "connection", "accept-encoding"}

    def test_request_is_the_documented_one(self) -> None:
        self.write_config()
        server = self.server()
        code = """
            from codegen_telemetry import Telemetry
            Telemetry(version="0.57.0", exit_wait=5).track(
                "command_executed", command="generate", flags=["--watch"],
                generators=["payloads", "channels"], generator_count=2, duration=1234, success=True)
            """
        before = time.time()
        done, _ = self.run_code(code, self.environment(server))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        path, headers, document = server.arrived.get(timeout=WAIT)
        self.assertEqual(path, "/collect?measurement_id=G-TEST&api_secret=s3cret")
        headers = {name.lower(): value for name, value in headers.items()}
        self.assertEqual((headers["content-type"], headers["user-agent"]),
                         ("application/json", "codegen/0.57.0"))
        self.assertLessEqual(set(headers), self.OURS)
        event = document["events"][0]
        self.assertTrue(before - 0.02 < event.pop("timestamp_micros") / 1e6 <= time.time())
        self.assertTrue(before - 2 < event["params"].pop("session_id") < time.time())
        self.assertEqual(document, {"client_id": "550e8400-e29b-41d4-a716-446655440000", "events": [{
            "name": "command_executed", "params": {
                "command": "generate", "flags": "watch", "generators": "payloads,channels",
                "generator_count": 2, "duration": 1234, "success": True, "cli_version": "0.57.0", "ci": False,
                "os": sys.platform, "agent": "none", "python_version": "%d.%d.%d" % sys.version_info[:3],
                "engagement_time_msec": 1234}}]})

    def test_what_a_host_has_patched_into_the_network_classes_is_not_sent(self) -> None:
        self.write_config()
        server, proxy, children = self.server(), self.server(), []
        code = textwrap.dedent(TRACERS) + textwrap.dedent("""
            from codegen_telemetry import Telemetry
            telemetry = Telemetry()
            telemetry.track("init_executed")
            print(telemetry.close(15), [url for url in seen if "s3cret" in url])
            """)
        for more in ({}, {"CODEGEN_TELEMETRY_ENDPOINT": "http://collector.invalid/collect",
                          "http_proxy": f"http://user:pass@127.0.0.1:{proxy.port}"}):
            children.append(self.start(code, self.environment(server, **more)))
        for done, expected in zip(self.ended(children), (server, proxy)):
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "True []\n", ""))
            ((path, headers, _),) = expected.requests
            self.assertTrue(path.endswith("/collect?measurement_id=G-TEST&api_secret=s3cret"))
            self.assertEqual({name.lower() for name in headers} - self.OURS,
                             {"proxy-authorization"} if expected is proxy else set())

    def test_patched_sockets_are_used_as_they_are(self) -> None:
        self.write_config()
        server = self.server()
        code = textwrap.dedent(GREEN) + textwrap.dedent("""
            from codegen_telemetry import Telemetry
            telemetry = Telemetry()
            telemetry.track("init_executed")
            print(telemetry.close(15))
            Telemetry(exit_wait=15).track("init_executed")
            """)
        done, _ = self.run_code(code, self.environment(server))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "True\n", ""))
        self.assertEqual(len(server.events), 2)

    @unittest.skipUnless(POSIX, "needs a shell")
    def test_no_socket_takes_the_place_of_a_closed_standard_stream(self) -> None:
        code = textwrap.dedent("""
            import os, socket, sys
            from codegen_telemetry import Telemetry
            telemetry = Telemetry(exit_wait=5)
            def meanwhile(*args, look_up=socket.getaddrinfo, **more):  # the host closes them meanwhile
                while len(sys.argv) > 1: os.close(int(sys.argv.pop()))
                return look_up(*args, **more)
            socket.getaddrinfo = meanwhile
            with telemetry.command("build"): pass
            telemetry.flush(1)
            for descriptor in range(3):
                try: os.write(descriptor, b"what a library prints")
                except OSError: pass
            """)
        server, children, homes = self.server(), [], []
        table: List[Any] = [("<&-", ()), (">&-", ()), ("2>&-", ()), ("<&- >&- 2>&-", ()), ("2>&1", "01")]
        for number, (shell, by_the_host) in enumerate(table):
            homes.append(self.told_home(str(number)))
            env = self.environment(server, **homes[-1])
            children.append(self.python("-c", code, *by_the_host, env=env, shell=shell))
        for home, done in zip(homes, self.ended(children)):
            self.assertEqual((done.returncode, done.stderr.replace("what a library prints", "")), (0, ""))
            self.assertEqual(len(list(Path(home["HOME"], CODEGEN.directory, "outbox").glob("*.json"))), 1)
        self.assertEqual(server.requests, [])

    def test_at_most_25_events_go_in_a_request_each_with_a_time_stamp_of_its_own(self) -> None:
        self.write_config()
        server = self.server()
        begin = """
            import sys, threading
            from codegen_telemetry import Telemetry
            telemetry = Telemetry(exit_wait=5)
            """
        store = begin + """
            def lonely(thread): raise RuntimeError("can't start new thread")
            threading.Thread.start = lonely
            options = {"o" + chr(97 + n // 26) + chr(97 + n % 26): "x" * 99 for n in range(99)}
            for _ in range(61):
                telemetry.track("generator_used", options=options, generator_type="a" * 32, language="b" * 32)
            """
        done, _ = self.run_code(store, self.environment(server))
        self.assertEqual((done.stderr, len(self.waiting()), server.requests), ("", 61, []))
        send = begin + "telemetry.track('init_executed'), sys.stdin.read()"
        child = self.start(send, self.environment(server), stdin=subprocess.PIPE)
        self.eventually(lambda: len(server.events) >= 62)
        out, err = child.communicate("", timeout=WAIT)
        self.assertEqual((child.returncode, out, err), (0, "", ""))
        self.assertEqual(sorted(len(document["events"]) for _, _, document in server.requests), [12, 25, 25])
        self.assertEqual(len({event["timestamp_micros"] for event in server.events}), 62)
        self.assertLess(max(int(headers["Content-Length"]) for _, headers, _ in server.requests), 130000)

    @unittest.skipUnless(shutil.which("openssl"), "a certificate is made by openssl")
    def test_https_is_verified_and_arrives_directly_and_through_a_tunnel(self) -> None:
        key, certificate = self.home / "key.pem", self.home / "cert.pem"
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=test",
                "-addext", "subjectAltName=IP:127.0.0.1,DNS:collector.invalid"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        closing = threading.Event()
        self.addCleanup(closing.set)
        silent = self.server(lambda handler: closing.wait(WAIT), tls=(str(certificate), str(key)))
        tunnel = Tunnel(self)
        trusted = {"SSL_CERT_FILE": str(certificate)}
        proxied = {"https_proxy": f"http://user:pass@{tunnel.address}"}
        rows: List[Any] = [("127.0.0.1", {}, 0), ("127.0.0.1", trusted, 1),
                           ("collector.invalid", {**trusted, **proxied}, 1),
                           ("collector.invalid", proxied, 0)]
        servers = [self.server(tls=(str(certificate), str(key))) for _ in rows]
        children = []
        for number, (server, (host, more, _)) in enumerate(zip(servers, rows)):
            tunnel.target = ("127.0.0.1", server.port) if more.keys() > trusted.keys() else tunnel.target
            env = self.environment(server, CODEGEN_TELEMETRY_ENDPOINT=f"https://{host}:{server.port}/collect",
                                   **self.told_home(str(number)), **more)
            children.append(self.start(TRACERS + TRACK, env))
        env["CODEGEN_TELEMETRY_ENDPOINT"] = f"https://127.0.0.1:{silent.port}/collect"
        children.append(self.start("""
            import ssl, time
            # what a socket sends after that, it does not encrypt
            ssl.SSLSocket.shutdown = lambda *how: print("no longer encrypted")
            from codegen_telemetry import Telemetry
            telemetry = Telemetry()
            telemetry.track("init_executed")
            print(telemetry.flush(15))
            """, {**env, **trusted, "https_proxy": ""}))
        *ended, cut = self.ended(children)
        for row, server, done in zip(rows, servers, ended):
            with self.subTest(row):
                self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
                self.assertEqual(len(server.requests), row[2])
                for _, headers, _ in server.requests:
                    self.assertLessEqual({name.lower() for name in headers}, self.OURS)
        self.assertEqual((cut.stdout, cut.stderr, len(silent.requests)), ("False\n", "", 1))
        for _ in range(2):
            line, *fields = tunnel.asked.get(timeout=1).rstrip().split("\r\n")
            self.assertRegex(line, r"^CONNECT collector\.invalid:[0-9]+ HTTP/1\.[01]$")
            fields = dict(field.lower().split(": ", 1) for field in fields)
            self.assertEqual(fields.pop("proxy-authorization"), "basic dxnlcjpwyxnz")
            self.assertLessEqual(set(fields), {"host", "user-agent", "connection"})

    # One event for each of `rows`, with its variables, home, product, project.
    DELIVER = """
        status = ["status"], ["status", "--json"]
        for number, row in enumerate(rows):
            for name in [name for name in os.environ if "TELEMETRY" in name]:
                del os.environ[name]
            os.environ.update(row.get("env", {}))
            os.environ["HOME"] = os.environ["USERPROFILE"] = row["home"]
            product = Product(**row.get("product", {}))
            telemetry = Telemetry(product, project=row.get("project"))
            telemetry.track("command_executed", generator_count=number)
            delivered = telemetry.close(5)
            results = [said(lambda: main(words, product=product)) for words in status]
            os.environ["CODEGEN_TELEMETRY_DEBUG"] = "1"
            results.append(said(lambda: Telemetry(product).track("command_executed")))
            answers.append([delivered, *results])
        """

    def delivered(self, rows: List[Dict[str, Any]]) -> Any:
        """For each row, whether its event was delivered, and the code, standard output and standard error of
        `status`, of `status --json` and of an event in debug mode, from a home with the row's `config`."""
        for number, row in enumerate(rows):
            row["home"] = self.told_home(str(number), **row.get("config", {}))["HOME"]
        return self.ask(self.DELIVER, rows)

    @staticmethod
    def env(**fields: str) -> Dict[str, str]:
        return {f"CODEGEN_TELEMETRY_{name}": text for name, text in fields.items()}

    def test_first_destination_that_is_set_wins_and_secrets_stay_with_theirs(self) -> None:
        server, env, placeholder = self.server(), self.env, CODEGEN.tracking_id
        own = dict(endpoint=server.url + "/own", tracking_id="G-OWN", api_secret="ownsecret")
        of_own = dict(endpoint=own["endpoint"], trackingId="G-OWN")
        cfg = dict(endpoint=server.url + "/cfg", trackingId="G-CFG", apiSecret="cfgsecret")
        unset = dict(endpoint="", trackingId="")
        ours = "/own?measurement_id=G-OWN&api_secret=ownsecret"
        theirs = "/cfg?measurement_id=G-CFG&api_secret=cfgsecret"
        table: List[Any] = [
            (dict(env=env(ENDPOINT=server.url + "/env", ID="G-ENV", API_SECRET="envsecret"), config=cfg,
                  product=own), "/env?measurement_id=G-ENV&api_secret=envsecret"),
            (dict(env=env(ENDPOINT=server.url + "/env"), config=cfg, product=own), "/env"),
            (dict(env=env(ENDPOINT=server.url + "/env", ID=placeholder), config=cfg, product=own), "/env"),
            (dict(env=env(ENDPOINT=server.url + "/env", ID="G-ENV"), config=cfg, product=own),
             "/env?measurement_id=G-ENV"),
            (dict(env=env(ENDPOINT=own["endpoint"]), config=of_own, product=own), "/own"),
            (dict(env=env(ENDPOINT=" ", ID="G-ENV", API_SECRET="envsecret"), config=cfg), theirs),
            (dict(env=env(ID="G-ENV", API_SECRET="envsecret"), config=of_own, product=own), ours),
            (dict(config=cfg, product=own), theirs),
            (dict(config={**cfg, "apiSecret": ""}, product=own), "/cfg?measurement_id=G-CFG"),
            (dict(config={**cfg, "trackingId": placeholder, "apiSecret": ""}, product=own), "/cfg"),
            (dict(config=dict(endpoint=cfg["endpoint"], trackingId="G-OWN"), product=own),
             "/cfg?measurement_id=G-OWN"),
            (dict(config=of_own, product=own), ours),
            (dict(config={**of_own, "apiSecret": "cfgsecret"}, product=own), ours),
            (dict(config={**of_own, "trackingId": "G-MINE", "apiSecret": "cfgsecret"}, product=own),
             "/own?measurement_id=G-MINE&api_secret=cfgsecret"),
            (dict(config={**of_own, "trackingId": "G-MINE"}, product=own), "/own?measurement_id=G-MINE"),
            (dict(config=unset, product=own), ours),
            (dict(env=env(ENDPOINT=CODEGEN.endpoint, ID=placeholder), config=cfg), theirs),
            (dict(config=dict(endpoint=CODEGEN.endpoint, trackingId=placeholder), product=own), ours),
            (dict(config=dict(endpoint=CODEGEN.endpoint, trackingId=placeholder, apiSecret="cfgsecret"),
                  product=own), ours),
            (dict(config=of_own, product=own, project={"endpoint": server.url, "enabled": True}), ours),
            (dict(env=env(ENDPOINT=server.url + "/q?tenant=7&x=", ID="G-1", API_SECRET="a&b c/%")),
             "/q?tenant=7&x=&measurement_id=G-1&api_secret=a%26b%20c%2F%25"),
            (dict(env=env(ENDPOINT=server.url.replace("http", "HTTP") + "/upper#fragment")), "/upper"),
            (dict(env=env(ENDPOINT=f"http://127.0.0.1:{server.port}?x=1")), "/?x=1"),
            (dict(config=of_own, product={**own, "tracking_id": placeholder}), "/own?measurement_id=G-OWN"),
            (dict(config=unset, product=dict(endpoint=own["endpoint"])), "/own"),
            (dict(config=unset, product=dict(endpoint=own["endpoint"], tracking_id="")), "/own"),
            (dict(config=unset, product=dict(endpoint=own["endpoint"], api_secret="ownsecret")),
             "/own?api_secret=ownsecret"),
            (dict(config=unset, product=dict(endpoint=own["endpoint"], tracking_id="mine")),
             "/own?measurement_id=mine")]
        answers = self.delivered([row for row, _ in table])
        paths: Dict[int, List[str]] = {}  # of each row, by the number that its event carries
        for path, _, document in server.requests:
            number = document["events"][0]["params"]["generator_count"]
            paths.setdefault(number, []).append(path.replace("/collect", "", 1))
        for number, ((row, expected), (delivered, *said)) in enumerate(zip(table, answers)):
            with self.subTest(expected=expected, **row):
                self.assertEqual((paths.get(number), delivered), ([expected], True))
                for secret in ("envsecret", "cfgsecret", "ownsecret", "a&b c/%", "a%26b"):
                    self.assertNotIn(secret, str(said))

    def test_google_analytics_needs_an_id_and_a_secret(self) -> None:
        """The host of that name or one within it, and no other."""
        google = "https://www.google-analytics.com/mp/collect"
        full = "?measurement_id=G-OWN&api_secret=***"
        table: List[Any] = [(dict(), None)]
        for url in (google, "https://google-analytics.com/mp/collect", "https://GOOGLE-ANALYTICS.com/x",
                    google.replace("www", "region1"), "https://x.google-analytics.com:443/debug/mp/collect"):
            own = dict(endpoint=url, tracking_id="G-OWN", api_secret="x")
            table += [(dict(product=own), url + full), (dict(product={**own, "api_secret": ""}), None),
                      (dict(product={**own, "tracking_id": ""}), None),
                      (dict(product={**own, "tracking_id": CODEGEN.tracking_id}), None),
                      (dict(env=self.env(ENDPOINT=url, ID="G-ENV"), product=own), None),
                      (dict(config=dict(endpoint=url, trackingId="G-CFG"), product=own), None)]
        for url in ("http://127.0.0.1:9/google-analytics.com/", "https://notgoogle-analytics.com/",
                    "https://google-analytics.com.example/", "https://example.com/#www.google-analytics.com"):
            table += [(row, url.partition("#")[0]) for row in (dict(product=dict(endpoint=url)),
                                                              dict(env=self.env(ENDPOINT=url)))]
        code = """
            path = Path.home() / ".the-codegen-project" / "config.json"
            document = json.loads(path.read_text())
            for row in rows:
                for name in [name for name in os.environ if name.startswith("CODEGEN_TELEMETRY")]:
                    del os.environ[name]
                os.environ.update(row.get("env", {}), CODEGEN_TELEMETRY_DEBUG="1")
                document["telemetry"].update({"endpoint": "", "trackingId": "", **row.get("config", {})})
                path.write_text(json.dumps(document))
                telemetry = Telemetry(Product(**row.get("product", {})))
                answers.append(said(lambda: telemetry.track("init_executed"))[2])
            """
        self.write_config()
        for (row, expected), text in zip(table, self.ask(code, [row for row, _ in table])):
            with self.subTest(row):
                self.assertIn("init_executed", text)
                self.assertEqual(re.findall(r"POST (\S+)", text), [expected] if expected else [])

    def test_unusable_destination_is_none_at_all_and_status_says_why(self) -> None:
        server = self.server()
        own = dict(endpoint=server.url, tracking_id="G-OWN", api_secret="x")
        bad = ["ftp://127.0.0.1/", "file:///etc/passwd", "garbage", "http:", "http://", "http:///x",
               "//127.0.0.1/x", "http://[", "http://127.0.0.1:99999/", "http://127.0.0.1:x/",
               "http:/127.0.0.1/", "javascript:alert(1)", "data:,x", "http://127.0.0.1/\x7f",
               "http://127.0.0.1/a b", "http://ä/", "\udcff", "http://me:pw@127.0.0.1/"]
        rows: List[Dict[str, Any]] = [dict(env=self.env(ENDPOINT=text), product=own) for text in bad if POSIX]
        rows += [dict(config=dict(endpoint=text), product=own) for text in bad]
        rows += [dict(product={**own, "endpoint": text}, config=dict(endpoint="")) for text in bad]
        rows += [dict(), dict(env=self.env(ID="G-ENV", API_SECRET="x"))]
        for row, (delivered, *said) in zip(rows, self.delivered(rows)):
            with self.subTest(row):
                self.assertIs(delivered, True)  # nothing was recorded
                (code, text, _), (_, document, _), (_, _, debug) = said
                destination = json.loads(document)["destination"]
                self.assertEqual((code, destination["endpoint"]), (0, ""))
                self.assertTrue(destination["problem"])
                self.assertIn(destination["problem"], re.sub(r"\s+", " ", text))
                self.assertNotIn("POST", debug)
                self.assertNotIn(":pw@", str(said))
                self.assertFalse((Path(row["home"]) / CODEGEN.directory / "outbox").exists())
        self.assertEqual(server.requests, [])

    def test_no_output_shows_what_a_query_holds(self) -> None:
        server = self.server()
        query = ("?token=hunter1&b=hunter2;c=hunter3&%74oken=hunter4&measurement_id=G-SHOWN&x=1=hunter5"
                 "&password=hunter6?hunter7&key=%68unter8&api_secret=hunter9#hunter0")
        url = server.url + query
        rows: List[Dict[str, Any]] = [
            dict(env=self.env(ENDPOINT=url)), dict(config=dict(endpoint=url, trackingId="G-CFG")),
            dict(product=dict(endpoint=url)), dict(env=self.env(ENDPOINT="ftp://127.0.0.1/" + query)),
            dict(env=self.env(ENDPOINT=f"http://me:hunter@127.0.0.1:{server.port}/" + query))]
        for number, (delivered, *said) in enumerate(self.delivered(rows)):
            with self.subTest(number=number):
                self.assertNotIn("unter", str(said))
                if number < 3:
                    self.assertEqual(server.arrived.get(timeout=1)[0].partition("#")[0].count("unter"), 9)
                    for shown in said:
                        self.assertIn("token=***", str(shown))
                        self.assertIn("measurement_id=G-SHOWN", str(shown))

    def test_odd_measurement_id_breaks_nothing(self) -> None:
        url = self.server().url
        rows: List[Any] = [dict(config=dict(endpoint=url, trackingId="\ud800", apiSecret="x")),
                           dict(config=dict(endpoint=url, trackingId="G-1", apiSecret="\ud800")),
                           dict(config=dict(endpoint=url, trackingId="ä/&", apiSecret="ü")),
                           dict(config=dict(endpoint=url, trackingId="a\nb", apiSecret="\x00"))]
        rows += [dict(env=self.env(ENDPOINT=url, ID="\udcff"))] if POSIX else []
        for _, (code, _, _), _, (_, out, debug) in self.delivered(rows):
            self.assertEqual((code, out), (0, ""))
            self.assertIn("command_executed", debug)

    def test_redirects_are_not_followed_and_the_answers_body_is_not_read(self) -> None:
        target, closing = self.server(), threading.Event()
        self.addCleanup(closing.set)

        def endless(handler: Any) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(10 ** 9))
            handler.end_headers()
            closing.wait(WAIT)

        answers = [(status, {"Location": target.url}) for status in (301, 302, 303, 307, 308)]
        urls = [self.server(answer).url for answer in [*answers, endless]]
        rows: List[Any] = [dict(env=self.env(ENDPOINT=url)) for url in urls]
        for row, (delivered, *_) in zip(rows, self.delivered(rows)):
            is_last = row is rows[-1]
            self.assertIs(delivered, is_last)
            waiting = list(Path(row["home"], CODEGEN.directory, "outbox").glob("*.json"))
            self.assertEqual(len(waiting), 0 if is_last else 1)
        self.assertEqual(target.requests, [])

    def test_proxies_of_the_environment_are_used_with_their_credentials(self) -> None:
        self.write_config()
        table: List[Any] = [("HTTP_PROXY", "user:pass@", "Basic dXNlcjpwYXNz"),
                            ("http_proxy", "user:p%40ss@", "Basic dXNlcjpwQHNz"),
                            ("HTTP_PROXY", "", None), ("http_proxy", "", None)]
        proxies, children = [self.server() for _ in table], []
        for number, ((variable, login, _), proxy) in enumerate(zip(table, proxies)):
            children.append(self.start(TRACK, self.environment(**{
                "CODEGEN_TELEMETRY_ENDPOINT": f"http://collector{number}.invalid/x",
                variable: f"http://{login}127.0.0.1:{proxy.port}"})))
        unused, servers = self.server(), []
        for variable, value in (("NO_PROXY", "127.0.0.1"), ("no_proxy", "example.com,127.0.0.1"),
                                ("NO_PROXY", "*")):
            servers.append(self.server())
            children.append(self.start(TRACK, self.environment(servers[-1], **{
                "HTTP_PROXY": f"http://127.0.0.1:{unused.port}", variable: value})))
        for done in self.ended(children):
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        for number, (proxy, row) in enumerate(zip(proxies, table)):
            with self.subTest(row):
                path, headers, _ = proxy.arrived.get(timeout=1)
                self.assertEqual(path, f"http://collector{number}.invalid/x")
                headers = {name.lower(): text for name, text in headers.items()}
                self.assertEqual(headers.get("proxy-authorization"), row[2])
        self.assertEqual([len(server.events) for server in [*servers, unused]], [1, 1, 1, 0])

    def test_https_goes_through_a_tunnel_or_not_at_all(self) -> None:
        self.write_config()
        gates, children = [], []
        for variable in ("HTTPS_PROXY", "https_proxy"):
            gates.append(Gate(self))
            children.append(self.start(TRACK, self.environment(**{
                "CODEGEN_TELEMETRY_ENDPOINT": "https://collector.invalid/" + variable,
                "CODEGEN_TELEMETRY_API_SECRET": "s3cret",
                variable: f"http://user:pass@{gates[-1].address}"})))
        for gate, done in zip(gates, self.ended(children)):
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
            head = gate.asked.get(timeout=1)
            self.assertRegex(head, r"^CONNECT collector\.invalid:443 HTTP/1\.[01]\r\n")
            self.assertRegex(head, r"(?i)\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n")
            self.assertNotIn("s3cret", head)
            self.assertTrue(gate.asked.empty())
        self.assertEqual(len(self.waiting()), 2)


on_terminal_only = unittest.skipUnless(POSIX, "only POSIX has pseudo-terminals and /bin/sh")
# A terminal that a test looks through, `Terminal()`, and the time some seconds later, `later(seconds)`.
TERMINAL = """
    import io, json, os, sys, time
    from pathlib import Path
    from codegen_telemetry import *
    class Terminal(io.StringIO):
        encoding = "utf-8"
        def isatty(self): return True
    def later(seconds, now=time.time): time.time = lambda: now() + seconds
    """


class UserCase(BasicCase):
    """A case with first runs, several at once, each of its own home."""

    def together(self, call: Any, rows: Sequence[Any]) -> List[Any]:
        """What `call(*row)` gives for each row, four at once."""
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(4) as pool:
            return [done.result() for done in [pool.submit(call, *row) for row in rows]]

    def home_of(self, name: Any, **more: str) -> Dict[str, str]:
        """The environment of a child with a home of its own below this one."""
        home = str(self.new_home(str(name)))
        return self.environment(HOME=home, USERPROFILE=home, PYTHONIOENCODING="utf-8", **more)

    def first_run(self, code: str, *arguments: str, env: Optional[Mapping[str, str]] = None) -> Any:
        """Run code, after TERMINAL, in a child whose standard error is a terminal."""
        program = textwrap.dedent(TERMINAL) + textwrap.dedent(code)
        return self.on_terminal(program, env or self.environment(PYTHONIOENCODING="utf-8"), *arguments)

    def at_one_terminal(self, codes: Sequence[str], env: Mapping[str, str]) -> Any:
        """`at_once` for children that share a terminal: their results, and what it showed."""
        import pty
        terminal, tty = pty.openpty()
        stdin, go = os.pipe()
        shown: List[bytes] = []

        def read() -> None:
            with contextlib.suppress(OSError):  # EIO, once the last writer has closed it
                while True:
                    shown.append(os.read(terminal, 65536))

        begin = "import sys\nfrom codegen_telemetry import *\nprint(end='.', flush=True)\nsys.stdin.read()\n"
        children = [self.start(begin + textwrap.dedent(code), env, stdin=stdin, stderr=tty) for code in codes]
        os.close(stdin)
        os.close(tty)
        for child in children:
            self.assertEqual(child.stdout.read(1), ".")
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        os.close(go)
        found = self.ended(children)
        reader.join(WAIT)
        os.close(terminal)
        return found, b"".join(shown).decode("utf-8").replace("\r\n", "\n")


class ConsentTests(UserCase):
    """Any "no" wins, and the first one is named."""

    decide = """
        for row in rows:
            for name in [name for name in os.environ if "TELEMETRY" in name or name == "DO_NOT_TRACK"
                         or name == "PYTEST_VERSION"]:
                del os.environ[name]
            os.environ.update(row.get("env", {}))
            telemetry = Telemetry(project=row.get("project"))
            answers.append([telemetry.enabled, telemetry.reason])
        """

    def test_variables_say_no_with_any_word_but_those_for_no(self) -> None:
        self.write_config()
        no = ["1", "true", "TRUE", " yes ", "on", "y", "2", "-1", "00", "none", "null", "n", "disabled",
              "offf", "x\ty"]
        on = ["", " ", "\t", "0", " 0 ", "false", "FALSE", "False", "no", "No", "off", "\nOFF\n"]
        rows = [{"env": {variable: value}, "on": value in on, "who": variable}
                for variable in ("DO_NOT_TRACK", "CODEGEN_TELEMETRY_DISABLED") for value in no + on]
        rows += [{"env": {"TELEMETRY_DISABLED": "1", "ITS_TELEMETRY_DISABLED": "1"}, "on": True, "who": ""}]
        for row, answer in zip(rows, self.ask(self.decide, rows)):
            with self.subTest(row):
                self.assertEqual(answer, [True, "on by default"] if row["on"] else [False, row["who"]])

    @unittest.skipUnless(POSIX, "only POSIX has bytes in the environment")
    def test_bytes_that_do_not_decode_count_as_set(self) -> None:
        for variable in (b"DO_NOT_TRACK", b"CODEGEN_TELEMETRY_DISABLED"):
            env = {**{os.fsencode(name): os.fsencode(text) for name, text in self.environment().items()},
                   variable: b"\xff"}
            self.assertEqual(self.ask("answers.append(Telemetry().reason)", [], env), [variable.decode()])

    def test_another_product_has_a_variable_of_its_own(self) -> None:
        code = "answers += [Telemetry(Product(command=row)).reason for row in rows]"
        answers = self.ask(code, ["its", "it"], self.environment(CI="1", ITS_TELEMETRY_DISABLED="1"))
        self.assertEqual(answers, ["ITS_TELEMETRY_DISABLED", "on by default"])

    def test_first_no_is_named(self) -> None:
        self.write_config(enabled=False)
        env = {"DO_NOT_TRACK": "1", "CODEGEN_TELEMETRY_DISABLED": "1"}
        no: Dict[str, Any] = {"enabled": False}
        rows = [dict(env=env, project=no), dict(env={**env, "DO_NOT_TRACK": "0"}, project=no),
                dict(project=no), dict(project={"enabled": True})]
        self.assertEqual(self.ask(self.decide, rows), [
            [False, who] for who in ("DO_NOT_TRACK", "CODEGEN_TELEMETRY_DISABLED", "project",
                                     str(self.config))])

    def test_environment_is_looked_at_anew(self) -> None:
        code = """
            telemetry = Telemetry()
            for value in rows:
                os.environ["DO_NOT_TRACK"] = value
                answers.append(telemetry.enabled)
            """
        self.write_config()
        self.assertEqual(self.ask(code, ["0", "1", "0"]), [True, False, True])

    def test_the_run_of_a_test_suite_is_no_usage_unless_the_environment_names_an_endpoint(self) -> None:
        self.write_config()
        rows = [{"env": {"PYTEST_VERSION": "8.3.4", "CODEGEN_TELEMETRY_ENDPOINT": endpoint}}
                for endpoint in ("", " ", "http://127.0.0.1:9/")]
        none, blank, named = self.ask(self.decide, rows)
        for enabled, reason in (none, blank):
            self.assertIs(enabled, False)
            self.assertIn("PYTEST_VERSION", reason)
        self.assertEqual(named, [True, "on by default"])

    def test_off_by_environment_touches_nothing(self) -> None:
        self.write_config()
        before = self.listing()
        code = """
            import threading
            opened = []
            if rows:
                sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
            loaded = set(sys.modules)
            telemetry = Telemetry(project={"enabled": True})
            with telemetry.command("generate"):
                telemetry.track("init_executed", completed=True)
            answers += [threading.active_count(), [p for p in opened if rows[0] in p],
                        telemetry.close() in (True, False),
                        [name for name in set(sys.modules) - loaded if "codegen" not in name]]
            """
        rows = [(code, [self.folder.name], self.environment(server, **{variable: "yes"}))
                for variable, server in (("DO_NOT_TRACK", self.server()), ("PYTEST_VERSION", None),
                                         ("CODEGEN_TELEMETRY_DISABLED", self.server()))]
        self.assertEqual(self.together(self.ask, rows), [[1, [], True, []]] * 3)
        self.assertEqual(self.listing(), before)

    def test_project_may_only_say_no(self) -> None:
        self.write_config()
        rows = [dict(project={"enabled": value}, on=value is True)
                for value in (True, False, None, 1, 0, "true", "no", [])]
        rows += [dict(project=project, on=True) for project in ({}, None,
                                                                {"endpoint": "http://127.0.0.1:1/"})]
        rows += [dict(project=project, on=project is True)
                 for project in (True, False, 0, 5, "off", "on", [], [1])]
        for row, answer in zip(rows, self.ask(self.decide, rows)):
            with self.subTest(row):
                self.assertEqual(answer, [True, "on by default"] if row["on"] else [False, "project"])
        code = """
            class Raises(dict):
                def get(self, *args): raise ZeroDivisionError
                __getitem__ = __contains__ = get
            telemetry = Telemetry(project=Raises(enabled=True))
            answers += [telemetry.enabled, telemetry.reason, said(lambda: telemetry.track("init_executed"))]
            """
        self.assertEqual(self.ask(code, []), [False, "project", [None, "", ""]])

    # Folders with the files of `row`, and what a tool finds in each.
    projects = """
        def decided(): return Telemetry().reason
        for number, files in enumerate(rows):
            os.makedirs(f"project{number}"), os.chdir(f"project{number}")
            for name, text in files.items():
                Path(name).write_bytes(text.encode("utf-8", "surrogateescape"))
            answers.append(decided())
            os.chdir("..")
        """
    FILES = """
        codegen.config.js codegen.config.ts codegen.config.mjs codegen.config.cjs codegen.json codegen.yaml
        codegen.yml codegen.js codegen.ts codegen.mjs codegen.cjs .codegenrc .codegenrc.json .codegenrc.yaml
        .codegenrc.yml package.json codegen.config.json""".split()

    def test_each_file_of_a_project_may_say_no(self) -> None:
        self.write_config()
        section = '{"telemetry": {"enabled": false}}'
        texts = {name: '{"codegen": %s}' % section if name == "package.json" else section if "json" in name
                 else "telemetry:\n  enabled: false\n" if name.endswith(("rc", "yaml", "yml"))
                 else f"export default {section};" for name in self.FILES}
        yes = {name: text.replace("false", "true") for name, text in texts.items()}
        rows: List[Any] = [{name: text} for name, text in texts.items()]
        rows += [{**yes, name: text} for name, text in texts.items()]  # whatever the others say
        rows += [yes]
        rows += [{"codegen.txt": section, "Codegen.yml.bak": section, "x.config.js": section}]
        answers = self.ask(self.projects, rows)
        for row, answer in zip(rows[:-2], answers):
            with self.subTest(files=list(row)):
                self.assertEqual(answer, "project")
        self.assertEqual(answers[-2:], ["on by default"] * 2)

    SAYS_NO = [
        ("js", "export default {\n  inputType: 'asyncapi',\n  inputPath: './asyncapi.yaml',\n"
               "  generators: [/* ... */],\n  \n  // Disable telemetry for this project\n"
               "  telemetry: {\n    enabled: false\n  }\n}\n"),
        ("js", "export default { telemetry: { enabled: false } }"),
        ("mjs", "export default{telemetry:{enabled:false}}"),
        ("cjs", "module.exports = {\r\n\t'telemetry' : {\r\n\t\t\"enabled\" : false,\r\n\t},\r\n};\r\n"),
        ("js", "\ufeffexport default {telemetry\n:\n{\n\n\nenabled\n:\nfalse\n}}"),
        ("ts", "const config: Config = {telemetry: {enabled: false as const}} satisfies Config"),
        ("js", "export default {telemetry: {ignore: /\\)/, enabled: false}}"),
        ("js", "export default {telemetry: {ignore: /[)]$/, enabled: false}}"),
        ("js", "export default {telemetry: {note: `a)\nb`, enabled: false}}"),
        ("yaml", "telemetry: {note: 1) privacy, enabled: false}\n"),
        ("js", "export default {telemetry: isLocal ? base : {enabled: false}}"),
        ("js", "export default {telemetry: base ?? {enabled: false}}"),
        ("js", "export default {telemetry: merge(base, {enabled: false})}"),
        ("js", "export default {telemetry: Object.assign({}, base, {\n  enabled: false,\n})}"),
        ("js", "export default {telemetry: {...(isCi && {enabled: false})}}"),
        ("js", "export default {telemetry: (() => { return {enabled: false} })()}"),
        ("ts", "export default defineConfig({telemetry: {\n  level: 3,\n  enabled: false,\n}})"),
        ("js", "export default {telemetry: { // never here\n  // {really}\n  enabled: false }}"),
        ("js", "export default {telemetry: /* a */ { /* b: {} */ enabled /* c */ : /* d */ false /* e */ }}"),
        ("js", "export default {/** ours */ telemetry /* it's */ : {\n/*\n * isn't\n */\nenabled: false}}"),
        ("js", "export default {telemetry: {endpoint: 'https://example.com/x?a={b}', enabled: false}}"),
        ("js", "export default {telemetry: {note: \"}\", other: '}', third: `}`, enabled: false}}"),
        ("js", r"export default {telemetry: {note: 'it\'s }', enabled: false}}"),
        ("js", "export default {telemetry: {tags: ['a', 'b'], extra: {a: 1}, enabled: false}}"),
        ("js", "export default {telemetry: {extra: {deep: {}}, enabled: false}}"),
        ("js", "// telemetry: see the documentation\nexport default {telemetry: {enabled: false}}"),
        ("js", "import {x} from './telemetry';\nexport default {telemetry: {...x, enabled: false}}"),
        ("js", "export default {opentelemetry: {enabled: true}, telemetry: {enabled: false}}"),
        ("js", "export default {filter: /[\"'{]/,\n  telemetry: {match: /it's/,\n  enabled: false}}"),
        ("js", "export default {telemetry: {url: `https://${host}/}`, enabled: false}}"),
        ("ts", "export default {telemetry: Object.freeze({enabled: false} as Telemetry)}"),
        ("js", "export default {telemetry: isLocal ? {enabled: false} : {}}"),
        ("js", "export default {telemetry: process.env.CI\n  ? {enabled: true}\n  : {enabled: false}}"),
        ("js", "export default {telemetry: (\n  {enabled: false})}"),
        ("js", "export default {base: base.replace(/\\/*$/, ''), telemetry: {enabled: false}}"),
        ("js", "export default {match: /^https?:\\/\\//, telemetry: {enabled: false}}"),
        ("js", "const telemetry = {\n  enabled: false,\n};\nexport default {telemetry};"),
        ("js", "const config = {};\nconfig.telemetry = {enabled: false};\nexport default config;"),
        ("yaml", "telemetry:\n  enabled: false\n"),
        ("yaml", "telemetry:\n  enabled: false"),
        ("yaml", "telemetry: &off !!map\n  enabled: false\n"),
        ("yaml", "note: don`t\ntelemetry:\n  enabled: false\n"),
        ("yml", "---\r\ninputType: asyncapi\r\ntelemetry:\r\n    enabled: false\r\ngenerators: []\r\n"),
        ("yaml", "inputType: asyncapi\n\n\"telemetry\":\n \"enabled\": false\n"),
        ("yaml", "'telemetry' :\n  'enabled' :   false\n"),
        ("yaml", "telemetry: # for us\n\n  # off\n\n  enabled: false # as agreed\n"),
        ("yaml", "telemetry:\n# not indented\n  enabled: false\n"),
        ("yaml", "telemetry:\n  level: 3\n  note: \"a: {b\"\n  enabled: false\n"),
        ("yaml", "telemetry:\n  extra:\n    deep: 1\n    deeper:\n      - 2\n  enabled: false\n"),
        ("yaml", "telemetry:\n  tags:\n  - a\n  - b\n  enabled: false\n"),
        ("yaml", "telemetry: {enabled: false}\n"),
        ("yaml", "telemetry: {\n  level: 3, # {\n  'enabled': false\n}\n"),
        ("yaml", "{inputType: asyncapi, telemetry: {enabled: false}}"),
        ("yaml", "telemetry:\n  {enabled: false}\n"),
        ("yaml", "telemetry:\n  enabled: False\n"),
        ("yaml", "telemetry:\n  enabled: FALSE\n"),
        ("yaml", "telemetry:\n  enabled: N\n"),
        ("yaml", "\udcff\udcfe" + "\0".join("telemetry:\n  enabled: false\n") + "\0"),
        ("yaml", "telemetry:\n  enabled: 'false'\n"),
        ("yaml", "telemetry:\n  enabled: true\ntelemetry:\n  enabled: false\n"),
        ("rc", '{\n  "telemetry": {\n    "enabled": false\n  }\n}\n'),
        ("rc", "telemetry:\n  enabled: false\n"),
        ("rc", "# ours: {\n{telemetry: # here\n  {enabled: false}}\n"),
        *(("json", '{"inputType": "asyncapi", "telemetry": %s}' % text) for text in (
            '{"enabled": false}', '{"enabled": 1}', '{"enabled": "true"}', '{"enabled": null}', "false", "0",
            '"off"', "[]", '{"enabled": false}, "limit": 1e999')),
        ("package.json", '{"name": "x", "codegen": {"telemetry": {"enabled": false}}}'),
    ]
    SAYS_NOTHING = [
        ("js", "export default {telemetry: {enabled: true}}"),
        ("js", "export default {inputType: 'asyncapi', cache: {enabled: false}}"),
        ("js", "export default {telemetry: {enabled: true}, cache: {enabled: false}}"),
        ("js", "export default {cache: {enabled: false}, telemetry: {enabled: true}}"),
        ("js", "export default {telemetry: {}, cache: {enabled: false}}"),
        ("js", "export default {telemetry: {tags: [{}], note: '{'}, cache: {enabled: false}}"),
        ("js", "export default {telemetry: true, enabled: false}"),
        ("js", "export default {telemetry: merge(base, {enabled: true}), cache: {enabled: false}}"),
        ("js", "start(telemetry = on, {enabled: false})\nlet cache = {enabled: false}"),
        ("js", "export default {telemetry: {disabled: false, isEnabled: false, enabledBy: false}}"),
        ("js", "export default {telemetry: {enabled: falsehood, debug: false}}"),
        ("js", "export default {opentelemetry: {enabled: false}, telemetryServer: {enabled: false}}"),
        ("ts", "export default {'open-telemetry': {enabled: false}, my_telemetry: {enabled: false}}"),
        ("js", "export default {generators: [{preset: 'telemetry', enabled: false}]}"),
        ("js", "import {telemetry} from './telemetry';\nexport default {telemetry, cache: {enabled: false}}"),
        ("js", "export default {description: 'no telemetry, enabled is false', enabled: false}"),
        ("ts", "let telemetry: Telemetry;\nexport default {cache: {enabled: false}}"),
        ("js", "telemetry.start();\nfunction telemetry() { return 1 }\nlet cache = {enabled: false}"),
        ("yaml", "telemetry:\n  enabled: true\n"),
        ("yaml", "telemetry:\n  enabled: true\ncache:\n  enabled: false\n"),
        ("yaml", "cache:\n  enabled: false\ntelemetry:\n  enabled: true\n"),
        ("yaml", "telemetry:\ncache:\n  enabled: false\n"),
        ("yaml", "telemetry:\n\n# nothing\n\ncache:\n  enabled: false\n"),
        ("yaml", "telemetry: {}\ncache:\n  enabled: false\n"),
        ("yaml", "a:\n  telemetry:\n    level: 1\n  enabled: false\n"),
        ("yaml", "telemetry: true\nenabled: false\n"),
        ("yaml", "opentelemetry:\n  enabled: false\n"),
        ("yaml", "open-telemetry:\n  enabled: false\n"),
        ("yaml", "- telemetry\n- enabled: false\n"),
        ("yaml", "telemetry:\n  disabled: false\n  re-enabled: false\n"),
        ("rc", ""),
        ("rc", "\udcff\x00telemetry"),
        *(("json", text) for text in (
            "", "{", "[]", "5", '{"a": 1}', "\udcff", "[" * 9999, '{"telemetry": {"enabled": true}}',
            '{"telemetry": {}}', '{"telemetry": null}', '{"telemetry": true}',
            '{"codegen": {"telemetry": {"enabled": false}}}')),
        *(("package.json", text) for text in (
            '{"telemetry": {"enabled": false}}', '{"codegen": "telemetry"}', '{"codegen": [1]}',
            '{"codegen": {"telemetry": {"enabled": true}}, "cache": {"enabled": false}}')),
    ]

    def test_a_project_says_no_in_any_layout_and_only_by_telemetry_not_enabled(self) -> None:
        self.write_config()
        name = {"rc": ".codegenrc", "package.json": "package.json"}.get
        table = [*((row, "project") for row in self.SAYS_NO),
                 *((row, "on by default") for row in self.SAYS_NOTHING)]
        rows = [{name(kind, f"codegen.{kind}"): text} for (kind, text), _ in table]
        answers = self.ask(self.projects, rows)
        for ((kind, text), expected), answer in zip(table, answers):
            with self.subTest(kind=kind, text=text[:300]):
                self.assertEqual(answer, expected)

    def test_spaces_and_comments_change_no_answer(self) -> None:
        self.write_config()
        rng = random.Random(SEED)
        table = [(kind, text, who) for texts, who in (
            (self.SAYS_NO, "project"), (self.SAYS_NOTHING, "on by default")) for kind, text in texts * 5]
        rows, expected = [], []
        between = ("", " ", "\n", "\t", "\r\n", "/**/", "/* } */", " // {\n", "/* it's */", " /* a: [ */\n")
        for kind, text, who in table:
            if kind.endswith(("js", "ts")) and not re.search("[^-\\w\\s{}:,=;]", text):
                text = re.sub("(?<=[{},:]) ?", lambda _: rng.choice(between), text)
            elif kind in ("yaml", "yml") and "{\n" not in text:
                deeper = rng.choice((1, 2, 3))
                lines = [" " * (len(line) - len(line.lstrip())) * deeper + line.lstrip()
                         for line in text.splitlines()]
                text = rng.choice(("\n", "\r\n")).join(
                    rng.choice(("", "", "\n", "  \n", "# x: {\n", "     # enabled: yes\n")) + line
                    + rng.choice(("", "", "  ", " # it's {", "\t# }")) for line in lines)
            else:
                continue
            rows.append({f"codegen.{kind}": text})
            expected.append(who)
        for row, who, answer in zip(rows, expected, self.ask(self.projects, rows)):
            with self.subTest(row, seed=SEED):
                self.assertEqual(answer, who)
        self.assertGreater(len(rows), 200)

    def test_what_is_no_readable_file_of_at_most_a_mebibyte_is_no_answer(self) -> None:
        self.write_config()
        code = """
            no = "telemetry: {enabled: false}\\n"
            def folder(name): os.mkdir(name)
            def pipe(name): os.mkfifo(name)
            def endless(name): os.symlink("/dev/zero", name)
            def dangling(name): os.symlink("nowhere", name)
            lines = ("#" * 1023 + "\\n") * 1023
            def largest(name): Path(name).write_text(lines + "\\n" * (1024 - len(no)) + no)
            def too_large(name): Path(name).write_text(lines + "\\n" * (1025 - len(no)) + no)
            for kind in (largest, too_large, folder, *[pipe, endless, dangling] * (os.name == "posix")):
                for name in ("codegen.config.json", "codegen.config.js", "codegen.yaml"):
                    os.makedirs(kind.__name__ + name), os.chdir(kind.__name__ + name)
                    kind(name)
                    if "json" not in name or kind not in (largest, too_large):
                        answers.append([kind.__name__, Telemetry().reason])
                    os.chdir("..")
            """
        answers = self.ask(code, [])
        self.assertEqual(len(answers), 16 if POSIX else 7)
        for kind, reason in answers:
            with self.subTest(kind):
                self.assertEqual(reason, "project" if kind == "largest" else "on by default")

    def test_a_project_is_looked_at_once_and_only_where_the_host_passes_none(self) -> None:
        self.write_config()
        code = """
            early, late = Telemetry(), Telemetry()
            answers.append(early.reason)
            Path("codegen.config.js").write_text("export default {telemetry: {enabled: false}}")
            others = {"other_file": Product(project_files=("other.js",)), "none": Product(project_files=())}
            answers += [early.reason, late.reason, Telemetry(project={}).reason,
                        *(Telemetry(other).reason for other in others.values())]
            os.remove("codegen.config.js")
            answers += [late.reason, Telemetry().reason]
            if os.name == "posix":
                os.mkdir("gone"), os.chdir("gone"), os.rmdir("../gone")
                answers.append(Telemetry().reason)
            """
        on = "on by default"
        self.assertEqual(self.ask(code, []),
                         [on, on, "project", on, on, on, "project", on, *[on] * POSIX])

    def test_no_text_makes_the_look_slow(self) -> None:
        self.write_config()
        units = [
            "telemetry:", "telemetry: {", "telemetry:\n", "'telemetry' /**/", "telemetry: /*", "telemetry ",
            "telemetry:{enabled:", "telemetry:\n  enabled: ", "telemetry: {a: {",
            "telemetry:\n  a:\n    b: 1\n", "enabled", "enabled: ", "enabled: f", "enabled /**/", " ", "\n",
            "\r\n", "\t", " \n", "{", "}", "{}", "[", '"', "'", "`", '"a', "\\", "\\'", "/", "/*", "/**/",
            "/* */ ", "*", "//", "//\n", "#", "#\n", " # {\n", "a", "a: 1\n", "  a: 1\n", "a: {b}, ",
            "\u00e9", "\0", "- \n", "-"]
        rng = random.Random(SEED)
        rows = [[head, unit, 2 ** 16] for unit in units for head in ("telemetry: {", "telemetry:\n  ")]
        rows += [["telemetry", "".join(rng.choices(units, k=rng.choice((1, 2, 3, 9, 99)))), 2 ** 20]
                 for _ in range(4)]
        rows += [["stairs", unit, 2 ** 20] for unit in ("telemetry:\n", "- telemetry:\n", "telemetry: {\n")]
        code = """
            import time
            number, *rows = rows
            os.mkdir(str(number)), os.chdir(str(number))
            for head, unit, size in rows:
                text = (head + unit * (size // len(unit.encode()) - 1)).encode()
                if head == "stairs":  # each line is indented one more, and nine long ones may follow
                    text = "".join(" " * n + unit for n in range(190 if number else 1400))
                    text = (text + (" " * 200 + "x" * 99000 + "\\n") * 9 * (number > 0)).encode()
                for name in ("codegen.config.js", "codegen.yaml"):
                    Path(name).write_bytes(text)
                began = time.process_time()
                Telemetry().reason
                answers.append(time.process_time() - began)
            """
        found = self.together(self.ask, [(code, [number, *rows[number::4]]) for number in range(4)])
        for number, seconds in enumerate(found):
            for row, spent in zip(rows[number::4], seconds):
                with self.subTest(row, seed=SEED):
                    self.assertLess(spent, 3 if row[2] > 2 ** 16 else .6)

    def test_damaged_config_means_off_and_stays_until_a_decision_moves_it_aside(self) -> None:
        good = self.write_config()
        text = json.dumps(good).encode()
        damaged = [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff", b"\x00", b"[" * 60000, b'{"a":' * 9000,
                   text[:-1], text + b"x", text.ljust(65537)]
        odd = [b"{}", b'{"telemetry": {}}', b'{"telemetry": {"enabled": NaN}}']
        odd += [json.dumps({**good, key: value}).encode()
                for key in ("telemetry", "hasShownTelemetryNotice", "version", "lastUpdated")
                for value in (None, [], 1)]
        odd += [json.dumps({**good, "telemetry": {**good["telemetry"], key: value}}).encode()
                for key in ("anonymousId", "endpoint", "trackingId", "apiSecret") for value in (None, 1, {})]
        odd += [json.dumps({**good, "telemetry": {**good["telemetry"], "anonymousId": value}}).encode()
                for value in ("x", "/etc/passwd", "550e8400-e29b-41d4-a716-44665544000g")]
        no = [json.dumps({**good, "telemetry": {**good["telemetry"], "enabled": value}}).encode()
              for value in (False, None, 1, 0, "true", [], {})]
        table: List[Any] = [*((content, "damaged") for content in damaged), *((row, "odd") for row in odd),
                            *((content, "no") for content in no)]
        table += [(None, kind) for kind in (("folder", "pipe", "device") if POSIX else ("folder",))]
        homes = []
        for number, (content, kind) in enumerate(table):
            path = self.new_home(str(number)) / CODEGEN.directory / "config.json"
            path.parent.mkdir()
            homes.append(str(path.parent.parent))
            {"folder": path.mkdir, "pipe": lambda: os.mkfifo(str(path)),
             "device": lambda: path.symlink_to("/dev/zero")}.get(kind, lambda: path.write_bytes(content))()
            if kind != "device":
                os.utime(str(path), (1, 1))  # what was written just now is read again for a while
        code = """
            for home, kind in rows:
                os.environ["HOME"] = os.environ["USERPROFILE"] = home
                path = Path(home, ".the-codegen-project", "config.json")
                before = path.read_bytes() if path.is_file() else b""
                telemetry = Telemetry(project={"enabled": True})
                seen = [telemetry.enabled, telemetry.reason]
                seen.append(said(lambda: telemetry.track("command_executed", command="x"))[1:])
                telemetry.close()
                status = said(lambda: main(["status"]))
                answers.append([*seen, status[0], "damaged" in status[1],
                                (path.read_bytes() if path.is_file() else b"") == before,
                                [entry.name for entry in path.parent.iterdir()]])
                if kind == "device": continue
                answers[-1] += [said(lambda: main(["disable"]))[0], Telemetry().reason == str(path),
                                json.loads(path.read_bytes())["telemetry"]["enabled"]]
            """
        rows, env = [[home, kind] for home, (_, kind) in zip(homes, table)], self.environment(self.server())
        chunks = [(code, rows[start:start + 8], env) for start in range(0, len(rows), 8)]
        found = self.together(self.ask, chunks)
        for home, (content, kind), answer in zip(homes, table, sum(found, [])):
            with self.subTest(kind=kind, content=content and content[:80]):
                path = Path(home, CODEGEN.directory, "config.json")
                is_damaged = kind not in ("odd", "no")
                self.assertEqual(answer[:4], [False, str(path), ["", ""], 0])
                self.assertEqual(answer[5:7], [True, ["config.json"]])
                self.assertTrue(answer[4] or not is_damaged, "status says that it is damaged")
                self.assertEqual(answer[7:], [] if kind == "device" else [0, True, False])
                aside = path.with_name("config.json.bak")
                if aside.exists() and content is not None:
                    self.assertEqual(aside.read_bytes(), content)
                elif kind != "device":
                    self.assertEqual(aside.exists(), is_damaged)

    def test_config_of_exactly_64_kib_is_read(self) -> None:
        self.write_config()
        self.config.write_bytes(self.config.read_bytes().ljust(65536))
        self.assertEqual(self.ask(self.decide, [{}]), [[True, "on by default"]])

    @unittest.skipIf(IS_ROOT or not POSIX, "root reads and writes everything")
    def test_config_that_must_not_be_read_means_off(self) -> None:
        self.write_config()
        self.config.chmod(0)
        self.assertEqual(self.ask(self.decide, [{}]), [[False, str(self.config)]])

    def test_no_place_for_a_config_file_means_off(self) -> None:
        (self.home / "file").write_text("x")
        self.new_home("taken")
        (self.home / "taken" / CODEGEN.directory).write_text("x")
        self.new_home("closed").chmod(0o500)
        self.new_home("dangling").joinpath(CODEGEN.directory).symlink_to("nowhere/at/all")
        self.new_home("far").joinpath(CODEGEN.directory).mkdir()
        (self.home / "far" / CODEGEN.directory / "config.json").symlink_to("nowhere/at/all")
        (self.new_home("nested") / ".config").write_text("x")
        before = self.listing()
        code = """
            import time
            for home in rows:
                os.environ["HOME"] = os.environ["USERPROFILE"] = home
                product = Product(directory="~/.config//its") if home.endswith("nested") else CODEGEN
                telemetry, began = Telemetry(product), time.monotonic()
                seen = [telemetry.enabled, telemetry.reason != "on by default"]
                seen.append(said(lambda: telemetry.track("command_executed", command="x"))[1:])
                decided = [said(lambda: main([word], product=product))
                           for word in ("status", "disable", "enable")]
                answers.append([*seen, [status for status, _, _ in decided],
                                "CODEGEN_TELEMETRY_DISABLED=1" in decided[1][2], bool(decided[2][2]),
                                time.monotonic() - began < 1.5])  # nobody waits for what won't come
            """
        homes = [str(self.home / name) for name in ("file", "missing", "taken", "dangling",
                                                    "far", "nested")] + ["relative"]
        homes += [] if IS_ROOT or not POSIX else [str(self.home / "closed")]
        for home, answer in zip(homes, self.ask(code, homes, self.environment(self.server()))):
            with self.subTest(home):
                self.assertEqual(answer, [False, True, ["", ""], [0, 1, 1], True, True, True])
        self.assertEqual(self.listing(), before)

    @on_terminal_only
    def test_opt_in_is_off_and_silent_until_enable(self) -> None:
        server = self.server()
        code = f"""
            product = Product(command="its", opt_in=True, endpoint={server.url!r}, tracking_id="G-1",
                              api_secret="own")
            if sys.argv[1:]:
                print(main(sys.argv[1:], product=product))
            else:
                telemetry = Telemetry(product, exit_wait=5)
                telemetry.track("command_executed", command="generate")
                print(telemetry.enabled, telemetry.reason)
            """
        for env in (self.environment(CI="1"), self.environment(ITS_TELEMETRY_ENDPOINT=server.url), None):
            done = self.first_run(code, env=env)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertRegex(done.stdout, "^False .*its telemetry enable")
        status = self.first_run(code, "status")
        self.assertRegex(" ".join(status.stdout.split()), "Telemetry is off: .*its telemetry enable")
        self.assertNotRegex(status.stdout, "notice.* due")
        self.assertEqual((self.listing(), server.requests), ([], []))
        self.assertEqual(self.first_run(code, "enable").stdout, "0\n")
        done = self.first_run(code)
        self.assertEqual((done.stdout.split()[0], done.stderr, len(server.events)), ("True", "", 1))
        self.assertEqual(self.first_run(code, "disable").stdout, "0\n")
        done = self.first_run(code)
        self.assertEqual((done.stdout, done.stderr, len(server.events)),
                         (f"False {self.home / '.its-telemetry' / 'config.json'}\n", "", 1))


# A thread that writes a config file as the Node.js CLI does: it reads, does something else, and writes what
# it read in place, in one or several pieces.
CARELESS = """
    import random, threading, time
    number, seed = rows
    rng = random.Random(f"{seed} {number}")
    class Careless(threading.Thread):
        def __init__(self, path, rng):
            super().__init__()
            self.path, self.rng, self.empty, self.stale = path, rng, 0.0, 0.0
        def run(self):
            for _ in range(self.rng.choice((1, 1, 2, 3))):
                self.write()
        def write(self):
            began = time.monotonic()
            try:
                document = json.loads(self.path.read_text())
            except (OSError, ValueError):
                section = {"anonymousId": "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "apiSecret": "YOUR_SECRET"}
                document = {"telemetry": {"enabled": True, **section}, "hasShownTelemetryNotice": False}
            document["lastUpdated"] = str(began)
            text, pieces = json.dumps(document), self.rng.choice((1, 1, 2, 4))
            time.sleep(self.rng.uniform(.005, .05))
            self.path.parent.mkdir(exist_ok=True)
            with open(str(self.path), "w") as file:
                opened = time.monotonic()
                for piece in range(pieces):
                    time.sleep(self.rng.uniform(0, .007))
                    file.write(text[len(text) * piece // pieces:len(text) * (piece + 1) // pieces])
                    file.flush()
            now = time.monotonic()
            self.empty, self.stale = max(self.empty, now - opened), max(self.stale, now - began)
    """


class ConfigTests(UserCase):
    """What is remembered, and that it survives everyone who writes it."""

    UUID4 = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"

    def test_file_has_the_documented_keys_and_modes_and_no_destination(self) -> None:
        code = "import os\nos.umask(0)" + textwrap.dedent(OWN_TRACK) + textwrap.dedent("""
            from codegen_telemetry import main
            if sys.argv[2:]: main(sys.argv[2:], product=product)
            """)
        for words in ([], ["disable"], ["enable"]):
            env = self.home_of("".join(words) or "track", CODEGEN_TELEMETRY_ENDPOINT="http://127.0.0.1:9/")
            done, _ = self.run_code(code, env, "http://127.0.0.1:9/x", *words)
            self.assertEqual(done.returncode, 0, done.stderr)
            folder = Path(env["HOME"]) / CODEGEN.directory
            document = json.loads((folder / "config.json").read_text())
            self.assertEqual(list(document),
                             ["version", "telemetry", "hasShownTelemetryNotice", "lastUpdated"])
            self.assertEqual(list(document["telemetry"]), ["enabled", "anonymousId"])
            self.assertRegex(document["telemetry"].pop("anonymousId"), self.UUID4)
            self.assertRegex(document.pop("lastUpdated"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
            self.assertEqual(document, {"version": "1.0.0", "hasShownTelemetryNotice": words == ["enable"],
                                        "telemetry": {"enabled": words != ["disable"]}})
            if POSIX:
                for path in [folder, *folder.rglob("*")]:
                    self.assertEqual(path.stat().st_mode & 0o777, 0o700 if path.is_dir() else 0o600, path)

    def test_folders_above_it_are_for_the_user_whatever_the_umask(self) -> None:
        code = """
            os.umask(0o777)
            product = Product(command="its", directory="deep/er/its")
            answers.append(said(lambda: main(["enable"], product=product))[0])
            answers += [os.stat(os.path.join(os.environ["HOME"], name)).st_mode & 0o777
                        for name in ("deep", "deep/er", "deep/er/its", "deep/er/its/config.json")]
            """
        if POSIX:
            self.assertEqual(self.ask(code, []), [0, 0o700, 0o700, 0o700, 0o600])

    def test_only_an_event_or_a_decision_creates_it(self) -> None:
        code = """
            telemetry = Telemetry()
            telemetry.enabled, telemetry.reason, telemetry.flush(), telemetry.track("undeclared_event")
            answers += [said(lambda: main(["status"]))[0], telemetry.close()]
            """
        for env in (self.environment(CODEGEN_TELEMETRY_ENDPOINT="http://127.0.0.1:9/"), self.environment()):
            self.assertEqual(self.ask(code, [], env), [0, True])
            self.assertEqual(self.listing(), [])
        for word, enabled in (("disable", False), ("enable", True)):
            self.assertEqual(self.telemetry(word).returncode, 0)
            self.assertIs(self.document()["telemetry"]["enabled"], enabled)
        self.assertIs(self.document()["hasShownTelemetryNotice"], True)  # who calls `enable` knows

    def test_what_we_do_not_know_or_write_is_kept(self) -> None:
        document = self.write_config(endpoint="https://example.com/", trackingId="G-MINE", apiSecret="s3cret",
                                     future={"a": [1, None, "ü"]})
        document.update(other={"b": 1e-7}, hasShownTelemetryNotice=False, more=[])
        self.config.write_text(json.dumps(document), encoding="utf-8")
        for word in ("disable", "enable"):
            self.assertEqual(self.telemetry(word).returncode, 0)
            found = self.document()
            section = {**document["telemetry"], "enabled": word == "enable",
                       "anonymousId": found["telemetry"]["anonymousId"]}
            self.assertNotEqual(found["lastUpdated"], document["lastUpdated"])
            self.assertEqual(found, {**document, "telemetry": section, "lastUpdated": found["lastUpdated"],
                                     "hasShownTelemetryNotice": word == "enable"})
            self.assertEqual((list(found), list(found["telemetry"])), (list(document), list(section)))
        self.assertEqual([path.name for path in self.folder.iterdir()], ["config.json"])

    def test_who_says_no_and_comes_back_is_somebody_else(self) -> None:
        ids = [self.write_config()["telemetry"]["anonymousId"]]
        code = """
            path = Path(os.environ["HOME"], ".the-codegen-project", "config.json")
            for word in ("enable", "disable", "enable", "enable"):
                said(lambda: main([word]))
                answers.append(json.loads(path.read_text())["telemetry"]["anonymousId"])
            """
        ids += self.ask(code, [])
        self.assertEqual((ids[0], len(set(ids)), ids[3]), (ids[1], 2, ids[4]))
        self.assertNotEqual(ids[1], ids[3])
        self.assertRegex(ids[3], self.UUID4)

    @unittest.skipUnless(POSIX, "links need a privilege on Windows")
    def test_symbolic_link_is_followed_to_its_target(self) -> None:
        self.write_config()
        dotfiles = self.new_home("dotfiles")
        target = dotfiles / "real.json"
        self.config.rename(target)
        for number in range(3):  # an existing target, then a missing one for each way to make it
            self.config.is_symlink() or self.config.symlink_to(target)
            if number < 2:
                self.assertEqual(self.telemetry("disable").returncode, 0)
            else:
                self.run_code(TRACK, self.environment(CODEGEN_TELEMETRY_ENDPOINT="http://127.0.0.1:9/"))
            self.assertTrue(self.config.is_symlink())
            self.assertIs(json.loads(target.read_text())["telemetry"]["enabled"], number == 2)
            self.assertEqual(target.stat().st_mode & 0o777, 0o600)
            target.unlink()
        self.assertEqual(list(dotfiles.iterdir()), [])

    @unittest.skipUnless(POSIX, "links need a privilege on Windows")
    def test_link_to_what_can_not_be_read_is_moved_aside_and_its_target_left_alone(self) -> None:
        """As a link to /dev/null, which a decision of root must not take for its file, and to which nobody
        else may write."""
        targets = {name: self.home / f"{name} elsewhere" for name in ("pipe", "folder", "loop")}
        os.mkfifo(str(targets["pipe"]))
        targets["folder"].mkdir()
        (targets["folder"] / "file").write_text("x")
        targets["loop"].symlink_to(targets["loop"])
        rows = []
        for name, word in ((name, word) for name in targets for word in ("disable", "enable")):
            folder = self.new_home(f"{name} {word}") / CODEGEN.directory
            folder.mkdir()
            (folder / "config.json").symlink_to(targets[name])
            rows.append([str(folder), word])
        code = """
            access = os.access
            for folder, word in rows:
                os.environ["HOME"] = os.path.dirname(folder)
                refused = os.path.realpath(folder + "/../..")
                os.access = lambda path, mode: path != refused and access(path, mode)
                answers += [[*said(lambda: main([word]))[::2], sorted(os.listdir(folder)),
                             json.loads(Path(folder, "config.json").read_text())["telemetry"]["enabled"]]]
            """
        before = set(os.listdir(str(self.home)))
        for (folder, word), (status, text, names, enabled) in zip(rows, self.ask(code, rows)):
            with self.subTest(folder=folder, word=word):
                self.assertEqual((status, enabled), (0, word == "enable"), text)
                self.assertEqual(names, ["config.json", "config.json.bak"])
        self.assertEqual(set(os.listdir(str(self.home))), before)
        self.assertTrue(targets["pipe"].is_fifo() and (targets["folder"] / "file").is_file())

    @unittest.skipUnless(POSIX, "needs resource")
    def test_a_full_disk_leaves_nothing_half_written(self) -> None:
        code = """
            import resource, signal, sys
            from codegen_telemetry import *
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
            Telemetry().track("init_executed", completed=True)
            print(main(["disable"]))
            """
        before = json.dumps(self.write_config())
        rows = []
        for size in ("0", "5", "100"):  # bytes that still fit: the lock does, with the last
            for name in ("fresh", "used"):
                env = self.home_of(name + size, CODEGEN_TELEMETRY_ENDPOINT="http://127.0.0.1:9/")
                rows.append((code, env, size))
                if name == "used":
                    (Path(env["HOME"]) / CODEGEN.directory).mkdir()
                    (Path(env["HOME"]) / CODEGEN.directory / "config.json").write_text(before)
        found = self.together(self.run_code, rows)
        for (_, env, size), (done, _) in zip(rows, found):
            home = Path(env["HOME"])
            with self.subTest(home.name):
                self.assertEqual((done.returncode, done.stdout), (0, "1\n"), done.stderr)
                self.assertIn("CODEGEN_TELEMETRY_DISABLED=1", done.stderr)
                self.assertNotIn("None", done.stderr)
                self.assertEqual([path.read_text() for path in home.rglob("*") if path.is_file()],
                                 [before] * ("used" in home.name))

    def test_disable_deletes_what_is_ours_and_nothing_else(self) -> None:
        self.write_config()
        self.run_code(TRACK, self.environment(self.server(503)))
        self.assertEqual(len(self.waiting()), 1)
        others = {os.path.join(*name.split("/")) for name in (
            "draft.eml", "x/y/z", "0000.claim/a.json", "mine.json", "notes.json.claim")}
        for name in others:
            (self.outbox / name).parent.mkdir(parents=True, exist_ok=True)
            (self.outbox / name).write_text("x")
        self.assertEqual(self.telemetry("disable").returncode, 0)
        self.assertEqual({str(path.relative_to(self.outbox)) for path in self.outbox.rglob("*")
                          if path.is_file()}, others)

    def test_a_run_that_finds_the_file_saying_no_deletes_what_waits_and_a_damaged_one_does_not(self) -> None:
        """Another program may have written either."""
        good = self.write_config()
        self.run_code(TRACK, self.environment(self.server(503)))
        for text, waiting in (("{", 1), (json.dumps(good)[:-9], 1),
                              (json.dumps(good).replace("true", "false", 1), 0)):
            self.config.write_text(text)
            self.run_code(TRACK, self.environment())
            self.assertEqual((len(self.waiting()), self.config.read_text()), (waiting, text))

    def test_a_file_that_is_rewritten_stays_readable_or_as_it_is(self) -> None:
        """Indented it may grow over the limit; what is nested deeply can perhaps be read but not written."""
        rows = [["[", "0,", 16000, "0]"], ['"', "\u00e9", 16000, '"'], ['"', "\u00e9", 32700, '"'],
                ["[" * 1200, "]", 1200, ""], ["1e999", "", 0, ""], ['"\\ud800"', "", 0, ""],
                ["1", "0", 22, ""]]
        code = """
            path = Path(os.environ["HOME"], ".the-codegen-project", "config.json")
            path.parent.mkdir()
            for head, unit, times, tail in rows:
                before = '{"telemetry":{"enabled":true,"anonymousId":"550e8400-e29b-41d4-a716-446655440000"},'
                before += '"more":' + head + unit * times + tail + '}'
                path.write_text(before, encoding="utf-8")
                status, _, text = said(lambda: main(["disable"]))
                answers.append([status, path.read_text(encoding="utf-8") == before,
                                "CODEGEN_TELEMETRY_DISABLED=1" in text, Telemetry().reason == str(path),
                                "damaged" in said(lambda: main(["status"]))[1]])
            """
        for row, answer in zip(rows, self.ask(code, rows)):
            with self.subTest(row):
                status, is_same, is_told, is_off, is_damaged = answer
                if status:
                    self.assertEqual((status, is_same, is_told), (1, True, True))
                else:
                    self.assertEqual((is_off, is_damaged), (True, False))

    def test_tracking_does_not_wait_for_the_lock_to_add_an_id(self) -> None:
        self.write_config()
        self.config.write_text('{"telemetry": {"enabled": true}}')
        self.config.with_name("config.json.lock").touch()
        self.assertEqual(self.ask("""
            def slept(seconds): answers.append(seconds)
            codegen_telemetry._Clock.sleep = slept
            Telemetry().track("init_executed")
            """, [], self.environment(CI="1")), [])

    def test_lock_is_waited_for_by_decisions_and_never_by_tracking(self) -> None:
        track = textwrap.dedent(TERMINAL) + textwrap.dedent("""
            began, sys.stderr = time.monotonic(), Terminal()
            product = Product(endpoint="http://127.0.0.1:9/", tracking_id="G-1", api_secret="own")
            Telemetry(product).track("command_executed", command="x")
            print(time.monotonic() - began < 1.5)
            """)
        main = "import sys, codegen_telemetry\nraise SystemExit(codegen_telemetry.main(sys.argv[1:]))"
        before = json.dumps({**self.write_config(), "hasShownTelemetryNotice": False})
        rows, began = [], time.monotonic()  # (word, the age of the lock, whether that works)
        for word, age, works in (("disable", 0, False), ("enable", 0, False), ("track", 0, True),
                                 ("disable", 9.2, True), ("disable", 11, True), ("disable", -1, False)):
            env = self.home_of(f"{word}{age}")
            config = Path(env["HOME"], CODEGEN.directory, "config.json")
            config.parent.mkdir()
            config.write_text(before)
            lock = config.with_name("config.json.lock")
            lock.mkdir() if age < 0 else lock.touch()  # a folder can't be removed like a lock
            at = time.time() - (age if age >= 0 else 99)
            os.utime(str(lock), (at, at))
            rows.append((word, age, works, config,
                         self.start(track if word == "track" else main, env, *[word] * (word != "track"))))
        for word, age, works, config, child in rows:
            (done,), seconds = self.ended([child]), time.monotonic() - began
            with self.subTest(word, age=age):
                self.assertEqual(done.returncode, 0 if works else 1, done.stderr)
                self.assertEqual(word in done.stderr, not works)
                self.assertEqual("CODEGEN_TELEMETRY_DISABLED=1" in done.stderr,
                                 word == "disable" and not works)
                self.assertEqual(done.stdout, "True\n" if word == "track" else "")
                if works and word == "disable":  # the process that held the lock is gone
                    self.assertIs(json.loads(config.read_text())["telemetry"]["enabled"], False)
                    self.assertEqual([path.name for path in config.parent.iterdir()], ["config.json"])
                else:
                    self.assertEqual(config.read_text(), before)
                    self.assertTrue(config.with_name("config.json.lock").exists())
                    waiting = list(config.parent.rglob("*-*-*-*.json"))  # for who holds the lock to tell
                    self.assertEqual(len(waiting), word == "track")
                    self.assertGreater(seconds, 0 if works else 1.8)

    def test_a_damaged_file_stays_a_no_until_a_decision_is_stored(self) -> None:
        """Whether it waits for a lock in vain, or the disk is full."""
        code = """
            import resource, signal
            path = Path(os.environ["HOME"], ".the-codegen-project", "config.json")
            def look(word):
                code = said(lambda: main([word]))[0]
                answers.append([code, path.read_text(), Telemetry().reason == str(path)])
            path.parent.mkdir()
            path.write_text("{")
            lock = path.with_name("config.json.lock")
            for word in ("disable", "enable"):
                lock.touch()
                look(word)
                lock.unlink()
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (9, limits[1]))
            look("disable")
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            """
        if POSIX:
            self.assertEqual(self.ask(code, [], self.home_of("damaged")), [[1, "{", True]] * 3)

    def test_an_enable_gives_way_to_a_disable_that_came_later(self) -> None:
        """However long it slept between writing and looking whether its word stands."""
        code = """
            import codegen_telemetry
            clock, sleep = codegen_telemetry._Clock, codegen_telemetry._Clock.sleep
            def late(seconds):
                clock.sleep = staticmethod(sleep)
                answers.append(said(lambda: main(["disable"]))[0])
            path = os.path.join(os.environ["HOME"], ".the-codegen-project", "config.json")
            for before in ("missing", "disable", "enable"):
                if before != "missing": said(lambda: main([before]))
                clock.sleep = staticmethod(late)
                answers.append(said(lambda: main(["enable"]))[0])
                answers.append(Telemetry().reason == path)
            """
        self.assertEqual(self.ask(code, [], self.home_of("late")), [0, 1, True] * 3)

    def test_decisions_are_written_durably_even_if_they_change_nothing(self) -> None:
        code = """
            path = Path(os.environ["HOME"], ".the-codegen-project", "config.json")
            synced, fsync = [], os.fsync
            os.fsync = lambda file: synced.append(fsync(file))
            for word in ("disable", "disable", "enable", "enable"):
                synced.clear()
                status = said(lambda: main([word]))[0]
                answers.append([status, bool(synced), json.loads(path.read_text())["telemetry"]["enabled"]])
            """
        self.assertEqual(self.ask(code, []), [[0, True, False]] * 2 + [[0, True, True]] * 2)

    def test_fsync_that_a_file_system_does_not_know_is_passed_over_and_any_other_error_is_told(self) -> None:
        code = """
            import errno
            path = Path(os.environ["HOME"], ".the-codegen-project", "config.json")
            def refused(file): raise OSError(number, os.strerror(number))
            os.fsync = refused
            for name in ("EINVAL", "ENOTSUP", "EIO", "EDQUOT"):
                number = getattr(errno, name, errno.EIO)
                for word in ("disable", "enable"):
                    status, _, text = said(lambda: main([word]))
                    enabled = path.exists() and json.loads(path.read_text())["telemetry"]["enabled"]
                    answers.append([name, word, status, os.strerror(number) in text, enabled])
            """
        for name, word, status, is_told, enabled in self.ask(code, []):
            with self.subTest(name, word=word):
                self.assertEqual((status, is_told), (1, True) if name in ("EIO", "EDQUOT") else (0, False))
                if not is_told:
                    self.assertIs(enabled, word == "enable")

    @on_terminal_only
    def test_of_many_that_start_together_one_creates_it_and_one_shows_the_notice(self) -> None:
        env = self.environment(self.server(503), PYTHONIOENCODING="utf-8")
        found, shown = self.at_one_terminal(["Telemetry(exit_wait=0).track('init_executed')"] * 12, env)
        self.assertEqual([(done.returncode, done.stdout) for done in found], [(0, "")] * 12)
        self.assertEqual(shown, NOTICE)
        self.assertIs(self.document()["hasShownTelemetryNotice"], True)
        self.assertEqual({path.name for path in self.folder.iterdir()}, {"config.json", "outbox"})
        events = [json.loads(path.read_text()) for path in self.outbox.rglob("*-*-*-*.json")]
        self.assertEqual([event["client_id"] for event in events],
                         [self.document()["telemetry"]["anonymousId"]] * 12)

    @on_terminal_only
    def test_no_writer_undoes_a_disable(self) -> None:
        track = "Telemetry(exit_wait=0).track('command_executed', command='x')"
        document = {**self.write_config(), "hasShownTelemetryNotice": False}
        for is_there in (True, False):
            self.config.write_text(json.dumps(document)) if is_there else self.config.unlink()
            disable = "raise SystemExit(main(['disable']))"
            codes = [track, track, disable, track, disable, track]
            found, _ = self.at_one_terminal(codes, self.environment(PYTHONIOENCODING="utf-8"))
            self.assertEqual({done.returncode for done in found}, {0}, found)
            self.assertIs(self.document()["telemetry"]["enabled"], False)
            self.assertEqual(self.waiting(), [])
            self.assertLessEqual({path.name for path in self.folder.iterdir()}, {"config.json", "outbox"})

    def test_a_writer_that_slept_for_long_undoes_no_disable_and_releases_no_lock_of_others(self) -> None:
        """As in a laptop that was closed: its lock is broken meanwhile."""
        program = textwrap.dedent(TERMINAL) + textwrap.dedent("""
            def sleep():
                print("sleeps", flush=True)
                sys.stdin.read()
            replace, moment, err = os.replace, sys.argv[1], sys.stderr
            def late(source, target):
                if moment == "replacing" and str(target).endswith("config.json"): sleep()
                replace(source, target)
            class Slow(Terminal):
                def write(self, text):
                    if moment != "replacing": sleep()
                    if moment == "failing": raise OSError(5, "gone")
                    return super().write(text)
            os.replace, sys.stderr = late, Slow()
            Telemetry().track("init_executed")
            sys.stderr = err
            print(Telemetry().reason)
            """)
        for moment, is_new in itertools.product(("replacing", "printing", "failing"), (False, True)):
            with self.subTest(moment, is_new=is_new):
                shutil.rmtree(str(self.folder), ignore_errors=True)
                if not is_new:
                    document = {**self.write_config(), "hasShownTelemetryNotice": False}
                    self.config.write_text(json.dumps(document))
                server = self.server()
                child = self.start(program, self.environment(server), moment, stdin=subprocess.PIPE)
                self.assertEqual(child.stdout.readline(), "sleeps\n")
                lock = self.config.with_name("config.json.lock")
                os.utime(str(lock), (time.time() - 60, time.time() - 60))
                self.assertEqual(self.telemetry("disable").returncode, 0)
                self.assertFalse(lock.exists())
                lock.touch()
                out, err = child.communicate("", timeout=WAIT)
                self.assertEqual((child.returncode, out), (0, f"{self.config}\n"), err)
                self.assertIs(self.document()["telemetry"]["enabled"], False)
                self.assertLessEqual({path.name for path in self.folder.iterdir()},
                                     {"config.json", "config.json.lock", "outbox"})
                self.assertTrue(lock.exists())
                self.assertEqual((server.requests, self.waiting()), ([], []))

    def test_a_decision_lasts_beside_a_careless_writer(self) -> None:
        code = textwrap.dedent(CARELESS) + textwrap.dedent("""
            def round(rng):
                folder = Path(f"{number}-{rng.random()}").resolve()
                path, word = folder / "config.json", rng.choice(("disable", "disable", "enable"))
                state = rng.choice(("missing", True, word == "disable"))
                if state != "missing":
                    folder.mkdir()
                    path.write_text(json.dumps({"telemetry": {"enabled": state, "apiSecret": "YOUR_SECRET"}}))
                writer, product = Careless(path, rng), Product(directory=str(folder))
                writer.start()
                time.sleep(rng.uniform(0, .06))
                status = main([word], product=product)
                writer.join()
                answers.append([str(state), word, writer.empty, writer.stale, status,
                                json.loads(path.read_text())["telemetry"]["enabled"],
                                sorted(entry.name for entry in folder.iterdir())])
            def rounds(rng):
                for _ in range(5): round(rng)
            threads = [threading.Thread(target=rounds, args=(random.Random(rng.random()),)) for _ in range(6)]
            err, sys.stderr = sys.stderr, io.StringIO()
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            sys.stderr = err
            """)
        fight = """
            import threading, time
            path, over = Path(os.environ["HOME"], "fight", "config.json"), []
            path.parent.mkdir()
            def write():
                while not over:
                    path.write_text('{"telemetry": {"enabled": true}}')
                    time.sleep(.01)
            writer = threading.Thread(target=write)
            writer.start()
            began = time.monotonic()
            status, _, text = said(lambda: main(["disable"], product=Product(directory=str(path.parent))))
            answers += [status, "CODEGEN_TELEMETRY_DISABLED=1" in text, time.monotonic() - began]
            over.append(1)
            writer.join()
            """
        first, second, (status, is_told, seconds) = self.together(self.ask, [
            (code, [1, SEED]), (code, [2, SEED]), (fight, [])])
        self.assertEqual((status, is_told), (1, True))
        self.assertTrue(1.5 < seconds < 6, seconds)
        # What a writer of another process does not do: it stopped in the middle, for this machine is busy.
        counted = [row for row in first + second if row[2] < .04 and row[3] < .09]
        self.assertGreaterEqual(len(counted), 10, "the machine is too busy")
        for state, word, _, _, *found in counted:
            with self.subTest(state=state, word=word, seed=SEED):
                self.assertEqual(found, [0, word == "enable", ["config.json"]])

    def test_a_reader_beside_a_careless_writer_takes_no_file_for_damaged(self) -> None:
        code = textwrap.dedent(CARELESS) + textwrap.dedent("""
            path = Path(os.environ["HOME"], ".the-codegen-project", "config.json")
            for _ in range(20):
                writer = Careless(path, rng)
                writer.start()
                reasons = {Telemetry().reason}
                while writer.is_alive(): reasons.add(Telemetry().reason)
                answers.append([writer.empty, sorted(reasons)])
            path.write_text("{")
            os.utime(path, (time.time() - 5, time.time() - 5))
            spent = []
            for _ in range(20):
                began = time.monotonic()
                Telemetry().reason
                spent.append(time.monotonic() - began)
            answers.append(min(spent))
            """)
        self.write_config()
        *rounds, seconds = self.ask(code, [0, SEED])
        counted = [reasons for empty, reasons in rounds if empty < .04]
        self.assertGreaterEqual(len(counted), 3, "the machine is too busy")
        self.assertEqual(counted, [["on by default"]] * len(counted), f"seed {SEED}")
        self.assertLess(seconds, .03)  # what was damaged for long is not waited for

    @on_terminal_only
    def test_deleting_it_resets_the_id_and_throws_waiting_events_away(self) -> None:
        server = self.server(503)
        self.write_config()
        self.run_code(OWN_TRACK, self.environment(), server.url)
        self.assertEqual(len(self.waiting()), 1)
        self.config.unlink()
        self.first_run(OWN_TRACK, server.url)
        server.answer = 204
        server.requests.clear()
        self.assertEqual(self.telemetry("enable").returncode, 0)
        self.run_code(OWN_TRACK, self.environment(), server.url)
        found = {document["client_id"] for _, _, document in server.requests}
        self.assertEqual(found, {self.document()["telemetry"]["anonymousId"]})
        self.assertNotIn("550e8400-e29b-41d4-a716-446655440000", found)
        self.assertEqual((len(server.events), self.waiting()), (2, []))


class NoticeTests(UserCase):
    """The first-run notice: once, on a terminal, before anything is recorded; and the hold that it begins."""

    def shown(self, home: Optional[Path] = None) -> Any:
        """Whether the notice is marked as shown; None if there is no config file."""
        path = (home or self.home) / CODEGEN.directory / "config.json"
        return json.loads(path.read_text())["hasShownTelemetryNotice"] if path.exists() else None

    def status(self, **more: str) -> Any:
        """The status as text, on one line, and as a document."""
        code = "answers += [said(lambda: main(words)) for words in (['status'], ['status', '--json'])]"
        found = self.ask(code, [], self.environment(**more))
        self.assertEqual([(status, err) for status, _, err in found], [(0, "")] * 2)
        return " ".join(found[0][1].split()), json.loads(found[1][1])

    @on_terminal_only
    def test_box_is_the_documented_one_and_shown_once_before_the_first_event(self) -> None:
        code = """
            print("before", file=sys.stderr)
            first, second = Telemetry(exit_wait=0), Telemetry(exit_wait=0)
            for telemetry in (first, second, first):
                telemetry.track("undeclared")
                telemetry.track("command_executed", command="x")
            print("after", file=sys.stderr)
            """
        env = self.environment(self.server(503), PYTHONIOENCODING="utf-8")
        for expected in ("before\n" + NOTICE + "after\n", "before\nafter\n"):
            done = self.first_run(code, env=env)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", expected))
            self.assertIs(self.shown(), True)

    @on_terminal_only
    def test_not_shown_in_ci_nor_when_off_nor_in_debug_mode_and_not_marked_then(self) -> None:
        rows = [("ci", {"CI": "true"}, False), ("DNT", {"DO_NOT_TRACK": "1"}, None),
                ("off", {"CODEGEN_TELEMETRY_DISABLED": "1"}, None), ("pytest", {"PYTEST_VERSION": "8"}, None),
                ("debug", {"CODEGEN_TELEMETRY_DEBUG": "1"}, None), ("disabled", {}, False)]
        envs = {name: self.home_of(name, **more) for name, more, _ in rows}
        self.telemetry("disable", env=envs["disabled"])
        found = self.together(lambda name: self.first_run(TRACK, env=envs[name]), [row[:1] for row in rows])
        for (name, _, mark), done in zip(rows, found):
            with self.subTest(name):
                self.assertEqual((done.returncode, "To disable" in done.stderr), (0, False))
                self.assertIs(self.shown(self.home / name), mark)

    @on_terminal_only
    def test_terminal_that_can_not_print_the_frame_gets_a_plain_one(self) -> None:
        rows = [(encoding, self.home_of(encoding)) for encoding in ("ascii", "latin-1")]
        for encoding, env in rows:
            env["PYTHONIOENCODING"] = encoding
        for done in self.together(lambda _, env: self.first_run(TRACK, env=env), rows):
            self.assertEqual((done.returncode, done.stderr), (0, ASCII_NOTICE))
        self.assertEqual([self.shown(self.home / encoding) for encoding, _ in rows], [True, True])

    def test_what_a_host_put_in_place_of_the_stream_gets_it_by_write(self) -> None:
        code = textwrap.dedent(TERMINAL) + textwrap.dedent("""
            class Live:  # as a live display's redirection
                def __init__(self): self.text, self.waiting = [], []
                def isatty(self): return True
                def fileno(self): return 2
                def write(self, text):
                    self.waiting += Path(os.environ["HOME"]).rglob("*-*-*-*.json")
                    self.text.append(text)
            err, sys.stderr = sys.stderr, Live()
            Telemetry().track("command_executed", command="x")
            live, sys.stderr = sys.stderr, err
            answers += ["".join(live.text), len(live.waiting), len(list(Path.home().rglob("*-*-*-*.json")))]
            """)
        env = self.environment(CODEGEN_TELEMETRY_ENDPOINT="http://127.0.0.1:9/")
        text, before, after = self.ask(code, [], env)
        self.assertIn(text, (NOTICE, ASCII_NOTICE))
        self.assertEqual((before, after, self.shown()), (0, 1, True))

    def test_without_a_terminal_nothing_is_written_or_created_or_recorded(self) -> None:
        track = textwrap.dedent(OWN_TRACK)
        odd = "class Odd(io.TextIOBase):\n  encoding = 'utf-8'\n%s\nsys.stderr = Odd()"
        full = odd % "  isatty = lambda self: True\n  def write(self, text): raise %s"
        before = ["", "sys.stderr = None", "sys.stderr.close()", "os.close(2)", "del sys.stderr",
                  full % "OSError(28, 'full')", full % "RuntimeError('gone')",
                  full % "BlockingIOError(11, 'full', 99)", odd % "  def isatty(self): raise ValueError",
                  odd % "  def write(self, text): sys.exit('written')"]
        table = [("", f"import io, os, sys, codegen_telemetry\n{code}\n{track}") for code in before]
        table += [(shell, track) for shell in (
            "2>/dev/null", "2>file", "2>&-", "2>/dev/full", "0<&- 1>&- 2>&-") if POSIX]
        server = self.server()
        children, homes = [], []
        for number, (shell, program) in enumerate(table):
            env = self.home_of(number)
            homes.append(Path(env["HOME"]))
            children.append(self.python("-c", program, server.url, shell=shell, env=env, cwd=str(homes[-1])))
        for row, home, done in zip(table, homes, self.ended(children)):
            with self.subTest(row):
                self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
                self.assertEqual([(path.name, path.is_file() and path.read_bytes())
                                  for path in home.rglob("*")], [("file", b"")] * (row[0] == "2>file"))
        self.assertEqual(server.requests, [])

    def test_nobody_was_told_is_a_no_that_status_leaves_out(self) -> None:
        code = """
            telemetry = Telemetry()
            reason = telemetry.reason
            answers += [telemetry.enabled, reason.isprintable(), reason != "on by default"]
            """
        for config in (None, True):
            if config:
                self.config.write_text(json.dumps({**self.write_config(), "hasShownTelemetryNotice": False}))
            self.assertEqual(self.ask(code, []), [False, True, True])
            text, facts = self.status()
            self.assertTrue(text.startswith("Telemetry is on: on by default"), text)
            self.assertRegex(text, "(?i)notice")
            self.assertIs(facts["enabled"], True)
        for env in (self.environment(CI="1"), self.environment(self.server())):
            self.assertEqual(self.ask(code, [], env), [True, True, False])
        self.write_config()
        self.assertEqual(self.ask(code, []), [True, True, False])
        self.assertNotRegex(self.status()[0], "(?i)notice.*(due|not )")

    @on_terminal_only
    def test_shown_is_only_what_was_written_to_its_last_byte(self) -> None:
        import pty
        server, rows = self.server(), []
        for number, (room, more) in enumerate((room, more) for room in (0, 200)
                                              for more in ({}, {"PYTHONUNBUFFERED": "1"})):
            env = self.home_of(number, **more)
            terminal, tty = pty.openpty()
            os.set_blocking(tty, False)
            with contextlib.suppress(BlockingIOError):
                while os.write(tty, b"x" * 64):
                    pass
            os.read(terminal, room) if room else None
            rows.append((terminal, tty, env, self.start(OWN_TRACK, env, server.url, stderr=tty)))
        for terminal, tty, env, child in rows:
            self.assertEqual(child.wait(WAIT), 0)
            os.set_blocking(terminal, False)
            seen = b""
            with contextlib.suppress(BlockingIOError):
                while True:
                    seen += os.read(terminal, 65536)
            os.close(tty)
            os.close(terminal)
            with self.subTest(env=env):
                is_told = seen.decode("utf-8", "replace").replace("\r\n", "\n").endswith(NOTICE)
                self.assertIs(self.shown(Path(env["HOME"])), True if is_told else None)
                self.assertEqual(len(list(Path(env["HOME"]).rglob("*"))) > 0, is_told)
        self.assertEqual(server.requests, [])

    def test_a_notice_that_fails_takes_nothing_away_from_others(self) -> None:
        """Neither the hold and the mark of one who showed it meanwhile, nor what goes to a destination that
        the environment names."""
        code = textwrap.dedent(TERMINAL) + textwrap.dedent("""
            folder = Path.home() / ".the-codegen-project"
            class Failing(Terminal):
                def write(self, text):
                    if sys.argv[1] == "shown meanwhile":
                        path = folder / "config.json"
                        document = json.loads(path.read_text())
                        path.write_text(json.dumps({**document, "hasShownTelemetryNotice": True}))
                    raise OSError(5, "gone")
            err, sys.stderr = sys.stderr, Failing()
            product = Product(endpoint="http://127.0.0.1:9/", tracking_id="G-1", api_secret="own")
            Telemetry(product, exit_wait=0).track("init_executed")
            sys.stderr = err
            print(sorted(path.name[-6:] for path in folder.rglob("*")))
            """)
        named = {"CODEGEN_TELEMETRY_ENDPOINT": "http://127.0.0.1:9/"}
        rows = {"nobody": ({}, []), "shown meanwhile": ({}, ["g.json", "outbox", ".state"]),
                "named": (named, ["g.json", "outbox", ".json"])}
        for name, (more, left) in rows.items():
            done, _ = self.run_code(code, self.home_of(name, **more), name)
            with self.subTest(name):
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                found = [part if part[-5:] != ".json" or part == "g.json" else ".json"
                         for part in json.loads(done.stdout.replace("'", '"'))]
                self.assertEqual(sorted(found), sorted(left))

    @on_terminal_only
    def test_a_file_that_can_not_be_replaced_does_not_repeat_it(self) -> None:
        """As one that is mounted by itself into a container."""
        self.config.write_text(json.dumps({**self.write_config(), "hasShownTelemetryNotice": False}))
        for _ in range(2):
            done = self.first_run("""
                replace = os.replace
                def refusing(source, target):
                    if str(target).endswith("config.json"): raise OSError(16, "busy")
                    replace(source, target)
                os.replace = refusing
                for _ in range(3): Telemetry().track("init_executed", completed=True)
                """)
            self.assertEqual((done.returncode, done.stdout, done.stderr, self.waiting()), (0, "", "", []))

    @on_terminal_only
    def test_a_no_that_comes_while_it_is_shown_stands(self) -> None:
        """That of another program without our lock; that of a `disable` that broke it because we slept."""
        code = """
            replace = os.replace
            def meanwhile(source, target):
                if str(target).endswith("hold.state"):
                    os.replace = replace
                    path = Path.home().joinpath(CODEGEN.directory, "config.json")
                    if sys.argv[1] == "disable":
                        Path(str(path) + ".lock").unlink()
                        main(["disable"])
                    else:
                        path.write_text(path.read_text().replace('"enabled": true', '"enabled": false'))
                return replace(source, target)
            os.replace = meanwhile
            Telemetry().track("init_executed", completed=True)
            """
        for word in ("disable", "write"):
            env = self.home_of(word)
            done = self.first_run(code, word, env=env)
            config = Path(env["HOME"], CODEGEN.directory, "config.json")
            with self.subTest(word):
                self.assertEqual((done.returncode, done.stdout), (0, ""))
                self.assertIs(json.loads(config.read_text())["telemetry"]["enabled"], False)

    @on_terminal_only
    def test_shown_where_a_host_has_mocked_its_clock(self) -> None:
        done = self.first_run("""
            from unittest import mock
            time.time = mock.MagicMock()
            product = Product(endpoint=sys.argv[1], tracking_id="G-1", api_secret="own")
            Telemetry(product).track("init_executed")
            """, "http://127.0.0.1:9/")
        self.assertEqual((done.returncode, done.stderr, len(self.waiting())), (0, NOTICE, 1))

    @on_terminal_only
    def test_a_full_disk_does_not_repeat_it(self) -> None:
        code = """
            import resource, signal
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
            Telemetry().track("init_executed", completed=True)
            """
        before = json.dumps({**self.write_config(), "hasShownTelemetryNotice": False})

        def look(name: str, env: Mapping[str, str]) -> None:
            config = Path(env["HOME"], CODEGEN.directory, "config.json")
            if name == "used":
                config.parent.mkdir()
                config.write_text(before)
            found = [self.first_run(code, size, env=env) for size in ("0", "100", "100")]
            self.assertEqual([(done.returncode, done.stderr) for done in found], [(0, "")] * 3)
            self.assertEqual([path.read_text() for path in Path(env["HOME"]).rglob("*") if path.is_file()],
                             [before] * (name == "used"))
            found = [self.first_run(code, "100000", env=env) for _ in range(2)]
            self.assertEqual([done.stderr for done in found], [NOTICE, ""])

        self.together(look, [(name, self.home_of(name)) for name in ("fresh", "used")])

    @on_terminal_only
    def test_hold_lasts_a_minute_and_the_run_that_showed_the_notice(self) -> None:
        own = textwrap.dedent("""
            product = Product(endpoint=sys.argv[1], tracking_id="G-1", api_secret="own")
            telemetry = Telemetry(product, exit_wait=5)
            """)
        first = own + textwrap.dedent("""
            telemetry.track("init_executed", completed=True)
            with telemetry.command("generate"): pass
            print(telemetry.flush(.1))
            for seconds in (90, -5):  # also where the clock is set back
                later(seconds)
                telemetry.track("init_executed", completed=False)
                print(telemetry.flush(.1))
            """)
        second = textwrap.dedent(TERMINAL) + own + textwrap.dedent("""
            later(int(sys.argv[2]))
            telemetry.track("generator_used")
            print(telemetry.flush(float(sys.argv[3])))
            """)

        killed = own + textwrap.dedent("""
            replace = os.replace
            def until_the_mark(source, target):
                os._exit(9) if str(target).endswith("config.json") else replace(source, target)
            os.replace = until_the_mark
            telemetry.track("generator_used")
            """)

        def look(name: str, env: Mapping[str, str], server: Server, url: str) -> None:
            done = self.first_run(first, url, env=env)
            self.assertEqual((done.stderr, done.stdout), (NOTICE, "False\n" * 3), name)
            done, _ = self.run_code(second, env, url, "50", ".1")
            self.assertEqual((done.stdout, done.stderr, server.requests), ("False\n", "", []), name)
            done, _ = self.run_code(second, env, url, "62", "9")
            self.assertEqual((done.stdout, done.stderr, len(server.events)), ("True\n", "", 6), name)

        server, others = self.server(), self.server()
        env = self.home_of("another program named the destination")
        self.write_config(endpoint=others.url, trackingId="G-2", apiSecret="file")
        text = self.config.read_text().replace('Notice": true', 'Notice": false')
        Path(env["HOME"], CODEGEN.directory).mkdir()
        Path(env["HOME"], CODEGEN.directory, "config.json").write_text(text)
        killed_env = self.home_of("killed")
        self.assertEqual(self.first_run(killed, server.url, env=killed_env).returncode, 9)
        self.assertTrue(Path(killed_env["HOME"], CODEGEN.directory, "outbox", "hold.state").exists())
        self.together(look, [("product", self.home_of("product"), server, server.url),
                             ("file", env, others, "http://127.0.0.1:9/")])

    @on_terminal_only
    def test_hold_is_kept_by_processes_beside_it_and_ended_by_enable(self) -> None:
        server = self.server()
        code = f"""
            product = Product(endpoint={server.url!r}, tracking_id="G-1", api_secret="own")
            Telemetry(product, exit_wait=5).track("command_executed", command="generate")
            """
        found, shown = self.at_one_terminal([code] * 8, self.environment(PYTHONIOENCODING="utf-8"))
        self.assertEqual([(done.returncode, done.stdout) for done in found], [(0, "")] * 8)
        self.assertEqual((shown, server.requests), (NOTICE, []))
        waiting = len(self.waiting())
        self.assertGreater(waiting, 0)
        self.assertEqual((self.telemetry("enable").returncode, server.requests), (0, []))
        self.run_code(OWN_TRACK, self.environment(), server.url)
        self.assertEqual((len(server.events), self.waiting()), (waiting + 1, []))

    @on_terminal_only
    def test_user_who_says_no_at_once_has_sent_nothing(self) -> None:
        server = self.server()
        self.first_run(OWN_TRACK, server.url)
        self.assertEqual(len(self.waiting()), 1)
        self.assertEqual(self.telemetry("disable").returncode, 0)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["config.json"])
        self.assertEqual(self.telemetry("enable").returncode, 0)
        self.run_code(OWN_TRACK, self.environment(), server.url)
        self.assertEqual(len(server.events), 1)  # of this run

    @on_terminal_only
    def test_first_run_sends_where_the_environment_named_the_destination_or_nobody_looks(self) -> None:
        for number, env in enumerate((self.home_of(0), self.home_of(1, CI="1"))):
            server = self.server()
            if number == 0:
                env = {**self.environment(server), **env}
            for run in range(2):  # in the run of the notice, and in the minute after it
                done = self.first_run(OWN_TRACK, server.url, env=env)
                self.assertEqual((done.returncode, len(server.events)), (0, run + 1))
                self.assertEqual(done.stderr, NOTICE if number == run == 0 else "")

    def test_where_the_environment_named_the_destination_an_event_needs_no_notice(self) -> None:
        server = self.server()
        done, _ = self.run_code(TRACK, self.environment(server))
        self.assertEqual((done.returncode, done.stderr, len(server.events), self.shown()), (0, "", 1, False))

    def test_another_product_gets_the_same_frame_around_its_own_words(self) -> None:
        code = textwrap.dedent(TERMINAL) + textwrap.dedent("""
            for fields in rows:
                err, sys.stderr = sys.stderr, Terminal()
                Telemetry(Product(**fields)).track("command_executed", command="x")
                answers.append(sys.stderr.getvalue())
                sys.stderr = err
                answers.append(said(lambda: main(["status"], product=Product(**fields)))[1])
            """)
        rows = [dict(command="its"), dict(command="a-tool", name="A Tool " * 9,
                                          docs_url="https://a.example/" + "x" * 60),
                dict(command="bare", opt_out="export BARE_TELEMETRY_DISABLED=1")]
        answers = self.ask(code, rows)
        for fields, text, status in zip(rows, answers[::2], answers[1::2]):
            lines = text.splitlines()
            self.assertEqual(len(set(map(len, lines))), 1, text)
            self.assertEqual((lines[0][0], lines[-1][-1], {line[0] for line in lines[1:-1]}),
                             ("┌", "┘", {"│"}))
            opt_out = fields.get("opt_out", f"{fields['command']} telemetry disable")
            self.assertIn(f"To disable: {opt_out} ", text)
            self.assertIn(opt_out, status)
            self.assertEqual("telemetry disable" in text, "opt_out" not in fields)
            self.assertIn(fields.get("docs_url", ""), text)
            self.assertNotIn("Codegen", text)
            self.assertEqual("Learn more" in text, "docs_url" in fields)


class DebugTests(UserCase):
    """Debug mode shows everything, sends nothing and writes nothing."""

    def explained(self, code: str, rows: Any = None, **more: str) -> str:
        """What debug mode shows while this code runs."""
        program = "def work():\n" + textwrap.indent(textwrap.dedent(code), "    ") + "\n    return None\n"
        result, out, text = self.ask(program + "answers += said(work)", rows,
                                     self.environment(**{"CODEGEN_TELEMETRY_DEBUG": "1", **more}))
        self.assertEqual((result, out), (None, ""))
        return str(text)

    def events(self, text: str) -> List[Any]:
        """The documents in debug output."""
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    @on_terminal_only
    def test_shows_the_request_and_opens_no_connection_and_writes_nothing(self) -> None:
        server = self.server()
        code = """
            import threading
            sys.addaudithook(lambda event, args: print(event) if event.startswith("socket.") else None)
            telemetry = Telemetry(version="0.57.0")
            with telemetry.command("generate", flags=["--watch"]):
                pass
            Telemetry().track("init_executed")
            print(threading.active_count(), telemetry.flush())
            """
        env = self.environment(server, CODEGEN_TELEMETRY_DEBUG="1", PYTHONIOENCODING="utf-8")
        ids = []
        for _ in range(2):
            done = self.first_run(code, env=env)
            self.assertEqual((done.returncode, done.stdout), (0, "1 True\n"))
            self.assertIn(f"POST {server.url}?measurement_id=G-TEST&api_secret=***\n", done.stderr)
            self.assertNotIn("s3cret", done.stderr)
            for header in ("Content-Type: application/json", "User-Agent: codegen/0.57.0"):
                self.assertIn(header, done.stderr)
            documents = self.events(done.stderr)
            self.assertIn(f"Content-Length: {len(json.dumps(documents[0]))}\n", done.stderr)
            self.assertEqual([document["events"][0]["name"] for document in documents],
                             ["command_executed", "init_executed"])
            ids += [document["client_id"] for document in documents]
            self.assertNotIn("To disable", done.stderr)
        self.assertEqual((ids[0], ids[2], len(set(ids))), (ids[1], ids[3], 2))  # one for each process
        for client_id in ids:
            self.assertRegex(client_id, ConfigTests.UUID4)
        self.assertEqual((server.requests, self.listing()), ([], []))
        self.config.write_text(json.dumps({**self.write_config(), "hasShownTelemetryNotice": False}))
        before = self.config.read_text()
        done = self.first_run(code, env=env)
        self.assertEqual([document["client_id"] for document in self.events(done.stderr)],
                         ["550e8400-e29b-41d4-a716-446655440000"] * 2)
        self.assertEqual(("To disable" in done.stderr, self.config.read_text(), self.listing()),
                         (False, before, [CODEGEN.directory, f"{CODEGEN.directory}{os.sep}config.json"]))

    def test_shows_what_is_dropped_and_why(self) -> None:
        rows = [("nope_event", {}), ("init_executed", {"path": "/etc/passwd"}),
                ("init_executed", {"completed": "/etc/passwd"}),
                ("\x1b[31m\ud800", {}), ("init_executed", {"\x1b[31m\ud800": 1}),
                ("init_executed", {"completed": True})]
        code = """
            telemetry = Telemetry()
            for event, params in rows:
                answers.append(said(lambda: telemetry.track(event, **params))[2])
            """
        answers = self.ask(code, rows, self.environment(CODEGEN_TELEMETRY_DEBUG="yes"))
        for (event, params), text in zip(rows, answers):
            with self.subTest(event=event, params=params):
                self.assertNotIn("/etc/passwd", text)
                self.assertNotIn("\x1b", text)
                self.assertEqual(len(self.events(text)), event == "init_executed")
                self.assertEqual(text.count("dropped"), 0 if params == {"completed": True} else 1)
        for text, name in zip(answers, ("nope_event", "path", "completed")):
            self.assertIn(name, text)
        self.assertIn("no destination", answers[1])
        text = self.explained("""
            options = {"a": [1], "Bad Name": 1, "ok": True, "c": None}
            options.update(("p" + chr(97 + n), n) for n in range(26))
            Telemetry().track("generator_used", options=options)
            words = ["abcdefghijklmnopqrstuvwxyz" + letter for letter in "abcdef"]
            Telemetry().track("init_executed", generators=words)
            """)
        for part in ("options_a", "'options_Bad Name'", "options_c", "options_pz",
                     "generators is longer than 100"):
            self.assertRegex(text, f"dropped.*{re.escape(part)}")
        self.assertIn('"options_ok": true', text)

    def test_shows_commands_as_they_were_and_ended(self) -> None:
        """Names that are passed by name, that lie, exceptions that lie, what is known only later."""
        text = self.explained("""
            class Lies(str):
                def __bool__(self): raise ValueError
                def __eq__(self, other): raise ValueError
                __hash__ = str.__hash__
            class Raises:
                def __bool__(self): raise ValueError
            class LyingError(Exception): __class__ = property(lambda self: SystemExit)
            class RaisingError(Exception):
                @property
                def __class__(self): raise ValueError
            class Odd(SystemExit): code = property(lambda self: {}["x"])
            telemetry = Telemetry()
            telemetry.command("init").__exit__(None, None, None)  # never entered: odd, but no error
            for name in ("generate", Lies("generate"), Raises()):
                with telemetry.command(name): pass
                with telemetry.command(name=name): pass
            for kind in (LyingError, RaisingError, Odd):
                try:
                    with telemetry.command("generate"): raise kind
                except BaseException as error: assert type(error) is kind
            command = telemetry.command("generate")
            command.update(input_type="openapi")
            with command as inner: inner.update(generator_count=3)
            """)
        found = [(event["name"], event["params"].get("command"), event["params"].get("success"))
                 for document in self.events(text) for event in document["events"]]
        executed = "command_executed"
        self.assertEqual(found, [(executed, "init", True), *[(executed, "generate", True)] * 4,
                                 *[(executed, "other", True)] * 2,
                                 *[(executed, "generate", False), ("error_occurred", "generate", None)] * 3,
                                 (executed, "generate", True)])
        self.assertRegex(text, '"input_type": "openapi", .*"generator_count": 3|'
                               '"generator_count": 3, .*"input_type": "openapi"')
        self.assertNotIn("dropped", text)
        self.assertNotIn("unexpected", text)

    def test_url_is_exactly_the_one_that_is_sent(self) -> None:
        self.write_config()
        server = self.server()
        rows = [server.url + query for query in ("", "?", "?a=1", "?a=1&", "#x", "?&&b=%20")]
        code = """
            for os.environ["CODEGEN_TELEMETRY_ENDPOINT"] in rows:
                os.environ["CODEGEN_TELEMETRY_DEBUG"] = "1"
                answers.append(said(lambda: Telemetry().track("init_executed"))[2])
                del os.environ["CODEGEN_TELEMETRY_DEBUG"]
                telemetry = Telemetry()
                telemetry.track("init_executed")
                telemetry.flush(9)
            """
        found = self.ask(code, rows, self.environment(server, CODEGEN_TELEMETRY_API_SECRET="s3/cret"))
        for text, (path, _, _) in zip(found, server.requests):
            sent = re.sub("([?&](?!measurement_id)[^=]*=)[^&]*", r"\1***", path)
            self.assertIn(f"POST http://127.0.0.1:{server.port}{sent}\n", text)
        self.assertEqual(len(server.requests), len(rows))

    def test_a_no_is_explained_by_one_line_and_lack_of_place_terminal_or_usage_is_none(self) -> None:
        code = """
            before = dict(os.environ)
            for project, more, _ in rows:
                os.environ.clear()
                os.environ.update(before, **more)
                answers.append(said(lambda: Telemetry(project=project).track("init_executed"))[2])
            """
        self.write_config(enabled=False)
        nowhere, home = str(self.home / "nowhere"), str(self.new_home("home"))
        rows: List[Any] = [
            ({}, {"DO_NOT_TRACK": "1"}, "DO_NOT_TRACK"), ({"enabled": False}, {}, "project"),
            ({}, {"CODEGEN_TELEMETRY_DISABLED": "1"}, "CODEGEN_TELEMETRY_DISABLED"),
            ({}, {}, str(self.config)), ({}, {"HOME": nowhere, "USERPROFILE": nowhere}, ""),
            ({}, {"HOME": home, "USERPROFILE": home}, ""),
            ({}, {"HOME": home, "USERPROFILE": home, "PYTEST_VERSION": "8"}, "")]
        found = self.ask(code, rows, self.environment(CODEGEN_TELEMETRY_DEBUG="1"))
        for (project, more, reason), text in zip(rows, found):
            with self.subTest(more, project=project):
                self.assertEqual(len(self.events(text)), 0 if reason else 1)
                if reason:
                    self.assertEqual((text.count("\n"), reason in text), (1, True), text)
        self.assertEqual(os.listdir(home), [])

    def test_words_for_no_leave_it_off(self) -> None:
        self.write_config()
        server = self.server()
        children = [self.start(TRACK, self.environment(server, CODEGEN_TELEMETRY_DEBUG=value))
                    for value in ("", " False ", "OFF")]
        self.assertEqual([(done.returncode, done.stderr) for done in self.ended(children)], [(0, "")] * 3)
        self.assertEqual(len(server.events), 3)

    @unittest.skipUnless(POSIX, "redirections by /bin/sh")
    def test_closed_stream_is_survived_and_secrets_in_the_url_are_hidden(self) -> None:
        url = ("http://127.0.0.1:9/x?a=hidden&API_secret=hidden;hidden&measurement_id=G-URL"
               "&%61pi_secret=hidden&token=hidden#hidden")
        env = self.environment(CODEGEN_TELEMETRY_DEBUG="1", CODEGEN_TELEMETRY_API_SECRET="s3cret",
                               CODEGEN_TELEMETRY_ENDPOINT=url)
        children = [self.python("-c", textwrap.dedent(TRACK), env=env, shell=shell)
                    for shell in ("2>&-", "2>/dev/full", "")]
        found = self.ended(children)
        self.assertEqual([done.returncode for done in found], [0, 0, 0])
        self.assertIn("POST http://127.0.0.1:9/x?a=***&API_secret=***", found[2].stderr)
        self.assertIn("&measurement_id=G-URL&", found[2].stderr)
        self.assertNotRegex(found[2].stderr, "hidden|s3cret")


class CommandLineTests(UserCase):
    """`status`, `enable`, `disable`."""

    def test_status_counts_what_waits_beside_a_damaged_file_and_knows_that_a_blank_sets_nothing(self) -> None:
        self.write_config()
        events, effect = self.ask("""
            product = Product(endpoint="http://127.0.0.1:9/", tracking_id="G-1", api_secret="own")
            Telemetry(product, exit_wait=0).track("init_executed")
            Path.home().joinpath(CODEGEN.directory, "config.json").write_text("{")
            os.environ["CODEGEN_TELEMETRY_ENDPOINT"] = "  "
            facts = json.loads(said(lambda: main(["status", "--json"], product=product))[1])
            answers += [facts["waiting"]["events"], facts["environment"]["CODEGEN_TELEMETRY_ENDPOINT"]]
            """, [])
        self.assertEqual((events, effect[:9]), (1, "no effect"))

    def test_exit_codes_and_streams(self) -> None:
        wrong = [[], [""], ["bogus"], ["status", "extra"], ["status", "--jsn"], ["--json"],
                 ["enable", "disable"], ["disable", "--json"], ["enable", "x"], ["Status"], ["--version"]]
        table = [*((row, 2) for row in wrong), *((row, 0) for row in (
            ["--help"], ["-h"], ["status", "--help"], ["enable", "-h"], ["status"], ["status", "--json"],
            ["enable"], ["disable"]))]
        code = """
            for row in rows:
                existed = Path(os.environ["HOME"], ".the-codegen-project").exists()
                answers.append([*said(lambda: main(row)), existed])
            sys.argv[1:] = ["status", "--json"]
            answers.append([*said(main), True])
            """
        answers = self.ask(code, [row for row, _ in table])
        for (row, expected), (status, out, err, existed) in zip(table, answers):
            with self.subTest(row):
                self.assertEqual((status, type(status)), (expected, int))
                is_decision = row in (["enable"], ["disable"])
                self.assertEqual((bool(out), bool(err)),
                                 (expected == 0 and not is_decision, expected == 2 or is_decision))
                self.assertEqual(existed, row == ["disable"])
                if not row or "--help" in row:
                    for word in ("status", "--json", "enable", "disable", "codegen telemetry"):
                        self.assertIn(word, out or err)
        self.assertIs(json.loads(answers[-1][1])["enabled"], False)

    def test_status_tells_everything_and_writes_nothing(self) -> None:
        code = """
            sys.addaudithook(lambda event, args: event.startswith("socket.") and answers.append(event))
            for argv in (["status"], ["status", "--json"]):
                answers.append(said(lambda: main(argv)))
            """
        self.write_config(endpoint="http://127.0.0.1:9/x?api_secret=inurl&key=inurl", trackingId="G-CFG",
                          apiSecret="cfgsecret")
        self.run_code(TRACK, self.environment())
        self.assertEqual(len(self.waiting()), 1)
        env = self.environment(CODEGEN_TELEMETRY_DEBUG="0", CODEGEN_TELEMETRY_API_SECRET="envsecret", CI="1",
                               CODEGEN_TELEMETRY_ID="G-UNUSED", CODEGEN_TELEMETRY_DISABLED="")
        before = [(name, (self.home / name).stat().st_mtime_ns) for name in self.listing()]
        (status, text, err), (_, document, _) = self.ask(code, [], env)
        self.assertEqual((status, err, [(name, (self.home / name).stat().st_mtime_ns)
                                        for name in self.listing()]), (0, "", before))
        flat = " ".join(text.split())
        expected = ["Telemetry is on: on by default", str(self.config), str(self.outbox),
                    "550e8400-e29b-41d4-a716-446655440000", "G-CFG", "config file", CODEGEN.docs_url,
                    "http://127.0.0.1:9/x?api_secret=***&key=***", "codegen telemetry disable",
                    "CODEGEN_TELEMETRY_DISABLED=1", "DO_NOT_TRACK=1", "codegen.config.js", *COMMON,
                    *CODEGEN.events,
                    *codegen_telemetry.NEVER_COLLECTED, *codegen_telemetry.KINDS.values(),
                    *(name for params in CODEGEN.events.values() for name in params)]
        for part in expected:
            self.assertIn(part, flat)
        for variable in ("DEBUG", "API_SECRET", "ID", "DISABLED"):
            self.assertRegex(flat, rf"\bCODEGEN_TELEMETRY_{variable}\b.*\bno effect")
        self.assertNotRegex(text + document, "envsecret|cfgsecret|inurl")
        facts = json.loads(document)
        self.assertEqual((facts["enabled"], facts["reason"], facts["config_file"]["path"],
                          facts["anonymous_id"], facts["waiting"]["events"]),
                         (True, "on by default", str(self.config), "550e8400-e29b-41d4-a716-446655440000", 1))

    @on_terminal_only
    def test_status_says_what_keeps_events_waiting_and_until_when(self) -> None:
        code = """
            product = Product(endpoint=sys.argv[1], tracking_id="G-1", api_secret="own")
            if sys.argv[2] != "hold": main(["enable"], product=product)
            telemetry = Telemetry(product, exit_wait=5)
            telemetry.track("init_executed")
            telemetry.flush(5)
            telemetry.track("init_executed")
            """
        status = "product = Product(endpoint=sys.argv[1], tracking_id='G-1', api_secret='own')\n"
        status += "main(['status'], product=product)"
        rows = [(word, self.server(answer), self.home_of(word), least, most)
                for word, answer, least, most in (("hold", 204, 0, 60), ("pause", 503, 500, 601),
                                                  ("rest", 204, 0, 60))]
        self.together(lambda word, server, env, *_: self.first_run(code, server.url, word, env=env), rows)
        found = self.together(lambda word, server, env, *_: self.first_run(status, server.url, env=env), rows)
        for (word, _, _, least, most), done in zip(rows, found):
            text = " ".join(done.stdout.split())
            with self.subTest(word, text=text):
                dates = re.findall(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
                self.assertRegex(text, rf"events: {1 if word == 'rest' else 2}\b")
                ago, now, first, last = (
                    time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
                    for seconds in (-WAIT, 0, least, most))
                self.assertTrue(ago < min(dates) <= now, "since when")
                self.assertTrue(first < max(dates) <= last, "until when")
                self.assertRegex(text, rf"(?i)\b{word}\b")

    def test_status_names_who_decided(self) -> None:
        self.write_config()
        for env, reason in (({"DO_NOT_TRACK": "1"}, "DO_NOT_TRACK"), ({}, str(self.config))):
            env or self.assertEqual(self.telemetry("disable").returncode, 0)
            self.assertIn(f"Telemetry is off: {reason}",
                          self.telemetry("status", env=self.environment(**env)).stdout)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["config.json"])

    def test_project_that_the_host_read_counts_on_the_command_line_too(self) -> None:
        self.write_config()
        code = """
            for project in rows:
                answers.append([said(lambda: main([word], project=project))[1:]
                                for word in ("status", "enable")])
            """
        (off, still_off), (on, now_on) = self.ask(code, [{"enabled": False}, {}])
        self.assertIn("Telemetry is off: project", off[0])
        self.assertIn("project", still_off[1])
        self.assertIn("Telemetry is on: on by default", on[0])
        self.assertNotIn("project", now_on[1])

    @on_terminal_only
    def test_everything_is_readable_everywhere(self) -> None:
        env = self.environment(PYTHONIOENCODING="ascii")
        rows = [(words, {**env, **more}) for more in (
            {}, {"CODEGEN_TELEMETRY_ENDPOINT": "ftp://x", "DO_NOT_TRACK": "1", "CODEGEN_TELEMETRY_DEBUG": "1",
                 "CODEGEN_TELEMETRY_ID": "x", "CODEGEN_TELEMETRY_API_SECRET": "x", "PYTEST_VERSION": "8",
                 "CODEGEN_TELEMETRY_DISABLED": "1", "CI": "1"},
            {"HOME": str(self.home / "missing"), "USERPROFILE": str(self.home / "missing")})
            for words in (["status"], ["disable"], ["enable"])] + [(["--help"], env), (["bogus"], env)]
        self.first_run(OWN_TRACK, "http://127.0.0.1:9/", env=env)
        found = self.together(lambda words, env: self.telemetry(*words, env=env), rows)
        self.config.write_text("{")
        found += [self.telemetry(word, env=env) for word in ("status", "disable")]
        for done in found:
            for line in (done.stdout + done.stderr).splitlines():
                self.assertTrue(line.isascii() and line.isprintable(), line)
                if str(self.home) not in line:
                    self.assertLessEqual(len(line), 80, line)

    @unittest.skipUnless(POSIX, "redirections by /bin/sh")
    def test_closed_streams_change_no_result(self) -> None:
        all_of_them = "1>&- 2>&- 0<&-"
        table = [(["status"], shell, 0) for shell in ("1>&-", "1>/dev/full", "2>&-", all_of_them)]
        table += [(["status", "--json"], "1>/dev/full", 0), (["--help"], "1>&-", 0),
                  (["bogus"], "2>/dev/full", 2),
                  (["bogus"], "2>&-", 2), (["enable"], "2>/dev/full", 0), (["enable"], all_of_them, 0)]
        envs = [self.home_of(number) for number in range(len(table))]
        children = [self.python("-m", "codegen_telemetry", *words, shell=shell, env=env)
                    for (words, shell, _), env in zip(table, envs)]
        for row, env, done in zip(table, envs, self.ended(children)):
            with self.subTest(row):
                self.assertEqual((done.returncode, "Traceback" in done.stderr), (row[2], False), done.stderr)
                self.assertEqual(Path(env["HOME"], CODEGEN.directory, "config.json").exists(),
                                 row[0] == ["enable"])
        code = """
            out, err = sys.stdout, sys.stderr
            for argv in (["status"], ["disable"], [], ["enable"]):
                del sys.stdout, sys.stderr
                answers.append(main(argv))
                sys.stdout, sys.stderr = out, err
            """
        self.assertEqual(self.ask(code, []), [0, 0, 2, 0])

    def test_decisions_move_a_damaged_file_aside(self) -> None:
        rows = [(word, content, self.home_of(f"{word}{number}")) for word in ("disable", "enable")
                for number, content in enumerate((b"{", b"\xff" * 70000, b"[]"))]
        for _, content, env in rows:
            Path(env["HOME"], CODEGEN.directory).mkdir()
            Path(env["HOME"], CODEGEN.directory, "config.json").write_bytes(content)
        found = self.together(lambda word, _, env: self.telemetry(word, env=env), rows)
        for (word, content, env), done in zip(rows, found):
            with self.subTest(word, content=content[:9]):
                self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
                self.assertIn("config.json.bak", done.stderr)
                folder = Path(env["HOME"], CODEGEN.directory)
                files = {path.name: path.read_bytes() for path in folder.iterdir()}
                self.assertEqual(set(files), {"config.json", "config.json.bak"})
                self.assertEqual(files["config.json.bak"], content)
                self.assertIs(json.loads(files["config.json"])["telemetry"]["enabled"], word == "enable")

    def test_enable_says_what_still_keeps_it_off(self) -> None:
        (self.home / "codegen.config.json").write_text('{"telemetry": {"enabled": false}}')
        code = """
            path = Path(os.environ["HOME"], ".the-codegen-project", "config.json")
            for name in rows:
                os.environ[name] = "1"
                answers.append([*said(lambda: main(["enable"])),
                                json.loads(path.read_text())["telemetry"]["enabled"]])
                del os.environ[name]
            """
        rows = ["DO_NOT_TRACK", "CODEGEN_TELEMETRY_DISABLED", "project"]
        for name, (status, out, text, enabled) in zip(rows, self.ask(code, rows)):
            self.assertEqual((status, out, name in text, enabled), (0, "", True, True), text)

    def test_decision_that_is_stored_beside_an_outbox_that_can_not_be_emptied_is_told_as_that(self) -> None:
        """As where `sudo` made the folder."""
        self.write_config()
        self.run_code(TRACK, self.environment(self.server(503)))
        code = """
            def refusing(call):
                def refused(path, *others, **more):
                    if "outbox" in str(path): raise PermissionError(13, "Permission denied", str(path))
                    return call(path, *others, **more)
                return refused
            for name in ("unlink", "remove", "rmdir", "rename", "replace"):
                setattr(os, name, refusing(getattr(os, name)))
            answers += [*said(lambda: main(["disable"])), Telemetry().reason]
            """
        status, out, text, reason = self.ask(code, [])
        self.assertEqual((status, out, reason), (1, "", str(self.config)))
        self.assertIs(self.document()["telemetry"]["enabled"], False)
        self.assertRegex(text, "(?i)telemetry is off")
        self.assertIn(str(self.outbox), text)
        self.assertNotRegex(text, "(?i)could not disable")
        self.assertNotIn("Traceback", text)

    def test_disable_without_a_home_deletes_nothing_of_others(self) -> None:
        (self.home / "outbox").mkdir()
        for name in ("draft.tmp", "1733826600000000-550e8400-01234567-01234567.json"):
            (self.home / "outbox" / name).write_text("x")
        done = self.telemetry("disable", env=self.environment(HOME="relative", USERPROFILE="relative"))
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("CODEGEN_TELEMETRY_DISABLED=1", done.stderr)
        self.assertEqual(len(list((self.home / "outbox").iterdir())), 2)

    def test_another_tool_mounts_it_as_its_own(self) -> None:
        code = """
            product = Product(command="its", events={"seen": {"mode": ("fast",)}})
            for argv in (["status"], ["--help"], ["disable"], ["status"], ["enable"]):
                answers.append(said(lambda: main(argv, product=product)))
            try: Product(name="Its")
            except ValueError as error: answers.append(str(error))
            """
        *answers, error = self.ask(code, [])
        self.assertIn("command", error)
        self.assertEqual([answer[0] for answer in answers], [0] * 5)
        for text in ("ITS_TELEMETRY_DISABLED=1", "its telemetry disable", "seen"):
            self.assertIn(text, answers[0][1])
        self.assertIn("Telemetry is off", answers[3][1])
        for _, out, err in answers:
            self.assertNotIn("codegen", (out + err).lower())
        self.assertFalse(self.folder.exists())


# What every child of the delivery tests begins with: `record` tells on standard output what was recorded.
PRELUDE = """
import json, os, signal, sys, threading, time
loaded = set(sys.modules)
from codegen_telemetry import CODEGEN, Product, Telemetry, main
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore Ctrl-C
mine = Telemetry(exit_wait=float(os.environ.get("EXIT_WAIT", 1)))
outbox = os.path.expanduser("~/.the-codegen-project/outbox/")
def record(number, telemetry=mine):
    telemetry.track("command_executed", generator_count=number)
    os.write(1, b"#%d\\n" % number)
def ending():
    os.write(1, b"@%f\\n" % time.time())
def waiting(ending=".json"):
    return [name for name in os.listdir(outbox) if name.endswith(ending)] if os.path.isdir(outbox) else []
def until(condition):
    for _ in range(1500):
        if condition(): return True
        time.sleep(.01)
    return False
def code_of(child):  # the exit code of a forked child; None for one that hangs
    found = []
    def ended():
        if not found:
            done, status = os.waitpid(child, os.WNOHANG)
            found.extend([status & 127 or status >> 8] if done else [])
        return found
    return found[0] if until(ended) else os.kill(child, signal.SIGKILL)
def network():  # what is loaded of it, and how many threads there are
    code = {"socket", "_socket", "ssl", "urllib.request", "http.client"}
    return [*sorted(code.intersection(sys.modules) - loaded), threading.active_count()]
def load_slowly(seconds):  # the network code
    class Slow:
        def find_spec(self, name, *ignored):
            if name == "http.client": time.sleep(seconds)
    sys.meta_path.insert(0, Slow())
def at_look_up(*calls):  # in the sending thread: the first of them at the first look-up, and so on
    import socket
    look_up, calls = socket.getaddrinfo, list(calls)
    def looked_up(*args, **params):
        if calls: calls.pop(0)()
        return look_up(*args, **params)
    socket.getaddrinfo = looked_up
def lonely(*ignored):
    raise RuntimeError("can't start new thread")
def older(*numbers):  # events of an earlier run: they wait
    start, threading.Thread.start, earlier = threading.Thread.start, lonely, Telemetry(exit_wait=0)
    for number in numbers: record(number, earlier)
    threading.Thread.start = start
def put_state(text, name):
    with open(outbox + name + ".state", "w") as file: file.write(text)
def state(why, seconds, failures=0):  # of the destination of what waits or is being sent
    found = {"until": time.time() + seconds, "why": why, "failures": failures, "process": 1}
    here = [name[26:34] for name in [*waiting(), *waiting(".claim")]]
    put_state(json.dumps(found), "hold" if why == "notice" else here[0])
"""
STORE = "older(*map(int, sys.argv[1:]))"
# For one user after the other, until nothing waits any more: each flush sends what waits, 25 at a time.
SWEEP = """
for env in map(json.loads, sys.argv[1:]):
    os.environ.clear()
    os.environ.update(env)
    outbox, mine = os.path.expanduser("~/.the-codegen-project/outbox/"), Telemetry(exit_wait=15)
    until(lambda: record(0, mine) or mine.flush(5) and not waiting())
"""
# Flags of children that are many: a quicker start, but where a tool that `site` loads measures coverage.
BRUTAL = () if "COVERAGE_PROCESS_START" in os.environ else ("-S",)
STRICT = (*BRUTAL, "-X", "dev", "-W", "error")
FORKING = (*BRUTAL, "-W", "ignore")  # since 3.12 Python warns of forks beside threads
PATIENT = {"EXIT_WAIT": "15"}  # for a busy machine: no answer is to be lost at the exit
CPYTHON = sys.implementation.name == "cpython"
FORKS = unittest.skipUnless(hasattr(os, "fork"), "fork")
SIGNALS = unittest.skipUnless(POSIX, "signals")


class Ended:
    """What became of a child: exit code, output, the numbers it recorded, and how long its exit took."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.out, self.err = child.communicate(timeout=WAIT)
        end, self.code = time.time(), child.returncode
        self.recorded = [int(line[1:]) for line in self.out.splitlines(True) if re.match(r"#\d+\n", line)]
        marks = [float(line[1:]) for line in self.out.splitlines() if line.startswith("@")]
        self.exit_seconds = end - marks[-1] if marks else 0.0
        self.lines = [line for line in self.out.splitlines() if line[:1] not in ("#", "@")]


class DeliveryCase(Case):
    """Users who have seen the notice, and children that record numbered events."""

    maxDiff = None

    def setUp(self) -> None:
        super().setUp()
        self.write_config()
        self.users = 0

    def user(self, server: Optional[Server] = None, in_file: bool = False, **more: str) -> Dict[str, str]:
        """The environment of one more user, with a home like the test's own. The server is named by variables
        or by the config file; only in the latter case there are rests."""
        self.users += 1
        home = self.home / "users" / str(self.users)
        shutil.copytree(str(self.folder), str(home / self.folder.name))
        if server and in_file:
            document = self.document()
            document["telemetry"].update(endpoint=server.url, trackingId="G-TEST", apiSecret="x")
            (home / self.folder.name / "config.json").write_text(json.dumps(document))
        return self.environment(None if in_file else server, HOME=str(home), USERPROFILE=str(home), **more)

    def files(self, env: Mapping[str, str], pattern: str = "*.json") -> List[Path]:
        """What lies in a user's outbox."""
        return sorted((Path(env["HOME"]) / self.folder.name / "outbox").glob(pattern))

    def numbers(self, env: Mapping[str, str]) -> List[int]:
        """Of the events that wait."""
        events = [json.loads(path.read_text())["event"] for path in self.files(env)]
        return [event["params"].get("generator_count") for event in events]

    def states(self, env: Mapping[str, str]) -> Dict[str, int]:
        """The seconds that each hold, pause and rest of a user still lasts, by its reason."""
        found = [json.loads(path.read_text()) for path in self.files(env, "*.state")]
        return {one["why"]: round(one["until"] - time.time()) for one in found if one["until"] > time.time()}

    def expire(self, env: Mapping[str, str]) -> None:
        """End holds, pauses and rests, as if their time had passed."""
        for path in self.files(env, "*.state"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "until": time.time() - 1}))

    def age(self, env: Mapping[str, str], seconds: float = 60) -> None:
        """Make what killed processes left so much older: claims, and half-written files."""
        then = time.time() - seconds
        for pattern in ("*.claim", "*.tmp", "done.*"):
            for path in self.files(env, pattern):
                os.utime(str(path), (then, then))

    def child(self, code: str, env: Mapping[str, str], *arguments: Any,
              **options: Any) -> subprocess.Popen[str]:
        options.setdefault("flags", BRUTAL)
        return self.start(PRELUDE + textwrap.dedent(code), env, *map(str, arguments), **options)

    def crew(self, starts: Sequence[Any], at_once: int = 6) -> List[Ended]:
        """Start children, each by its function, so many at once, and wait for all of them."""
        free = threading.Semaphore(at_once)
        ended: List[Any] = [None] * len(starts)

        def work(n: int) -> None:
            with free:
                ended[n] = Ended(starts[n]())

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(len(starts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * WAIT)
        self.assertNotIn(None, ended, "a child hangs")
        return ended

    def together(self, children: Sequence[subprocess.Popen[str]]) -> List[Ended]:
        """Wait for children that run already."""
        return self.crew([lambda child=child: child for child in children], len(children))

    def run_child(self, code: str, env: Mapping[str, str], *arguments: Any, **options: Any) -> Ended:
        return Ended(self.child(code, env, *arguments, **options))

    def assert_says(self, lines: Sequence[str], code: str, env: Mapping[str, str], *arguments: Any,
                    **options: Any) -> None:
        """A child prints this and nothing else, and ends well."""
        ended = self.run_child(code, env, *arguments, **options)
        self.assertEqual((ended.code, ended.err, ended.lines), (0, "", list(lines)))

    def sweep(self, *envs: Mapping[str, str]) -> None:
        """What later runs do, once claims are old and pauses over; nothing is left then."""
        for env in envs:
            self.age(env)
            self.expire(env)
        users = [json.dumps({**env, "CI": "1"}) for env in envs]  # CI knows no rest
        self.assert_says([], SWEEP, envs[0], *users)
        for env in envs:
            left = [path for path in self.files(env, "**/*") if path.is_file() and path.suffix != ".state"]
            self.assertEqual((left, self.states(env)), ([], {}), "something is left in the outbox")

    def arrivals(self, events: Sequence[Mapping[str, Any]]) -> Dict[int, List[int]]:
        """The time stamps under which each number arrived."""
        found: Dict[int, List[int]] = {}
        for event in events:
            found.setdefault(event["params"].get("generator_count"), []).append(event["timestamp_micros"])
        found.pop(0, None)   # of a sweep
        found.pop(None, None)  # of a command
        return found

    def assert_arrived(self, numbers: Sequence[int], events: Sequence[Mapping[str, Any]],
                       once: bool = True) -> None:
        """All of them arrived: each once, or else again with the same time stamp only."""
        found = self.arrivals(events)
        self.assertEqual(sorted(set(numbers) - set(found)), [], "recorded, but lost")
        for number, stamps in found.items():
            self.assertEqual(len(stamps) if once else len(set(stamps)), 1, f"{number} came again")


@SIGNALS
class EndingTests(DeliveryCase):
    """However a process ends, what it recorded arrives."""

    def test_every_ending(self) -> None:
        orderly = {"pass": 0, "raise ValueError": 1, "sys.exit(3)": 3, "mine.close(5); os._exit(4)": 4,
                   "mine.close(5); os.execv(sys.executable, [sys.executable, '-S', '-c', ''])": 0}
        abrupt = {"os._exit(5)": 5,
                  "os.execv(sys.executable, [sys.executable, '-S', '-c', 'raise SystemExit(6)'])": 6,
                  "os.kill(os.getpid(), signal.SIGTERM)": -signal.SIGTERM,
                  "os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
                  "import resource as r; r.setrlimit(r.RLIMIT_CORE, (0, 0)); os.abort()": -signal.SIGABRT,
                  "time.sleep(.1); os._exit(7)": 7, "mine.flush(5); os._exit(8)": 8}
        servers = [self.server(), self.server()]
        envs = [self.user(server, **PATIENT) for server in servers]
        rows = [(env, *row) for env, rows in zip(envs, (orderly, abrupt)) for row in rows.items()]
        ended = self.together([self.child(f"record({n})\n{code}", env)
                               for n, (env, code, _) in enumerate(rows, 1)])
        for (_, code, expected), one in zip(rows, ended):
            with self.subTest(code):
                self.assertEqual((one.code, len(one.recorded)), (expected, 1), one.err)
        self.sweep(*envs)
        self.assert_arrived(range(1, 6), servers[0].events)
        self.assert_arrived(range(6, 13), servers[1].events, once=False)

    def test_the_exit_does_not_wait_for_what_can_not_be_written(self) -> None:
        env = self.user(self.server(), **PATIENT)
        self.run_child("", env)
        folder = Path(env["HOME"], CODEGEN.directory)
        folder.mkdir(exist_ok=True)
        (folder / "outbox").write_text("a file")
        ended = self.run_child("load_slowly(9)\nrecord(1)\nprint(network())\nending()", env)
        self.assertEqual((ended.code, ended.err, ended.lines), (0, "", ["[1]"]))  # no thread, no network code
        self.assertLess(ended.exit_seconds, 5)
        self.assert_says(["False"], "record(1)\nprint(mine.flush(9))", env)

    def test_killed_at_any_moment(self) -> None:
        server, chance = self.server(), random.Random(SEED)
        env = self.user(server)
        code = """
            os.write(1, b"!")
            for number in range(10):
                record(int(sys.argv[1]) + number)
                time.sleep(.01)
            time.sleep(.2)
        """

        def killed(first: int, moment: float) -> subprocess.Popen[str]:
            child = self.child(code, env, first)
            self.assertEqual(os.read(child.stdout.fileno(), 1), b"!")
            threading.Event().wait(moment)
            child.kill()
            return child

        ended = self.crew([partial(killed, 20 * n, chance.uniform(0, .2)) for n in range(1, 12)])
        with self.subTest(TEST_SEED=SEED):
            self.sweep(env)
            recorded = [number for one in ended for number in one.recorded]
            self.assert_arrived(recorded, server.events, once=False)

    def test_killed_between_any_two_operations_on_files(self) -> None:
        """Nothing is lost, and of what a kill left half deleted nothing comes again."""
        servers = [self.server() for _ in range(7)]
        envs = [self.user(server) for server in servers]
        code = """
            left = int(sys.argv[1])
            def dying(call):
                def die(*args, **params):
                    global left
                    left -= 1
                    if not left: os.kill(os.getpid(), signal.SIGKILL)
                    return call(*args, **params)
                return die
            older(1, 2, 3, 4)
            for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
                setattr(os, name, dying(getattr(os, name)))
            record(5)
            mine.flush(9)
        """
        for ended in self.crew([partial(self.child, code, env, 2 * n - 1) for n, env in enumerate(envs, 1)]):
            self.assertEqual((ended.code, ended.err), (-signal.SIGKILL, ""))
        before = [len(server.requests) for server in servers]
        self.assertLessEqual({0, 1}, {*before})
        self.sweep(*envs)
        for server, requests in zip(servers, before):
            self.assert_arrived([1, 2, 3, 4], server.events)
            self.assertLessEqual(len(server.requests), 2)

    def test_killed_while_one_object_deletes_and_another_sends(self) -> None:
        server = self.server()
        env = self.user(server)
        ended = self.run_child("""
            def other():
                record(2, Telemetry())
                until(lambda: len(waiting(".claim")) == 2)
                unlink = os.unlink
                def dying(path):
                    if path.endswith(".claim"): os.kill(os.getpid(), signal.SIGKILL)
                    unlink(path)
                os.unlink = dying
            at_look_up(other, lambda: time.sleep(30))
            record(1)
            mine.flush(15)
        """, env)
        self.assertEqual((ended.code, ended.err, len(server.requests)), (-signal.SIGKILL, "", 1))
        self.assertEqual([path.stat().st_mode & 0o777 for path in self.files(env, "done.*")], [0o600])
        self.sweep(env)
        self.assert_arrived([1, 2], server.events)


class CrowdTests(DeliveryCase):
    """Many processes, threads, children and copies at once."""

    def test_many_processes_send_each_event_once_and_say_nothing(self) -> None:
        server = self.server()
        env = self.user(server, **PATIENT)
        code = "for number in range(5): record(int(sys.argv[1]) + number)"
        ended = self.together([self.child(code, env, 10 * n) for n in range(1, 17)])
        self.assertEqual({(one.code, one.err) for one in ended}, {(0, "")})
        self.sweep(env)
        self.assert_arrived([number for one in ended for number in one.recorded], server.events)
        self.assertEqual(len(self.arrivals(server.events)), 80)
        self.assertLess(len(server.requests), 40)  # what waits goes together

    def test_many_threads(self) -> None:
        server = self.server()
        ended = self.run_child("""
            together = threading.Barrier(8)
            def work(first):
                together.wait()
                for number in range(20): record(first + number)
            threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(1, 9)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            print(threading.active_count() <= 2, mine.flush(10), flush=True)
        """, self.user(server), flags=STRICT)
        self.assertEqual((ended.lines, ended.err), (["True True"], ""))
        self.assert_arrived(ended.recorded, server.events)
        self.assertEqual(len({event["timestamp_micros"] for event in server.events}), 160)

    def test_a_signal_handler_may_record(self) -> None:
        """At any line of ours, also while the thread starts: nobody waits for ever, and no other begins."""
        server = self.server()
        ended = self.run_child("""
            import codegen_telemetry
            lines, numbers, start, begun = [], iter(range(10, 990)), threading.Thread.start, []
            def interrupted(thread):
                begun.append(thread.name)
                if len(begun) == 1: record(1)
                start(thread)
            def trace(frame, event, argument):
                if frame.f_code.co_filename != codegen_telemetry.__file__: return None
                lines.append(1)
                if len(lines) % 31 == 0: record(next(numbers))
                return trace
            threading.Thread.start = interrupted
            record(2)
            print(begun, mine.flush(15))
            sys.settrace(trace)
            with mine.command("build"): record(3)
            sys.settrace(None)
            print(next(numbers) > 20, mine.flush(15), threading.active_count() <= 2)
        """, self.user(server))
        self.assertEqual((ended.err, ended.lines), ("", ["['telemetry'] True", "True True True"]))
        self.assert_arrived(ended.recorded, server.events)

    def test_copies_and_objects_share_one_exit(self) -> None:
        for package in ("one", "two"):
            (self.home / package / "_vendor").mkdir(parents=True)
            shutil.copy(str(MODULE), str(self.home / package / "_vendor" / "telemetry.py"))
        code = """
            import one._vendor.telemetry, two._vendor.telemetry
            classes = one._vendor.telemetry.Telemetry, two._vendor.telemetry.Telemetry, Telemetry
            objects = [own(exit_wait=float(sys.argv[2])) for own in classes for _ in range(3)]
            for number, telemetry in enumerate(objects, int(sys.argv[1])): record(number, telemetry)
            ending()
        """
        dead, healthy = self.server(silent), self.server()
        envs = [self.user(dead), self.user(healthy)]
        stuck, well = self.together([self.child(code, env, *row)
                                     for env, row in zip(envs, ((10, .4), (20, 15)))])
        self.assertEqual((stuck.code, stuck.err, well.code, well.err), (0, "", 0, ""))
        self.assertLess(stuck.exit_seconds, 2)
        self.assertEqual(len(self.files(envs[0])), 9)
        self.sweep(envs[1])
        self.assert_arrived(range(20, 29), healthy.events)

    def test_flush_does_not_wait_for_what_others_go_on_recording(self) -> None:
        server = self.server(late(.1))
        self.assert_says(["True True"], """
            def work():
                while not ended.wait(.005): mine.track("init_executed")
            ended, worker = threading.Event(), threading.Thread(target=work)
            record(1)
            worker.start()
            time.sleep(.05)
            record(2)
            began = time.monotonic()
            print(mine.flush(30), time.monotonic() - began < 15)
            ended.set()
            worker.join()
        """, self.user(server))
        self.assertLessEqual({1, 2}, set(self.arrivals(server.events)))

    @FORKS
    def test_fork_at_any_moment(self) -> None:
        """A child does not hang, in its imports neither, and sends its own events, not its parent's."""
        server = self.server()
        env = self.user(server, **PATIENT)
        moments = [(n * .03, 0) for n in range(4)] + [(0, .6), (.1, .6)]  # until the fork; of a slow disk
        code = """
            first, moment, slow = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
            load_slowly(slow)
            if slow:  # and a host that shows its progress by a timer
                signal.signal(signal.SIGALRM, lambda *ignored: None)
                signal.setitimer(signal.ITIMER_REAL, .05, .05)
            record(first + 1)
            time.sleep(moment)
            child = os.fork()
            signal.setitimer(signal.ITIMER_REAL, 0)
            if not child:
                import urllib.request, ssl, email.utils, encodings.idna
                record(first + 2)
                sys.exit(3)
            record(first + 3)
            sys.exit(code_of(child))
        """
        ended = self.together([self.child(code, env, 10 * n, *moment, flags=FORKING)
                               for n, moment in enumerate(moments)])
        self.assertEqual({(one.code, one.err) for one in ended}, {(3, "")})
        self.sweep(env)
        self.assert_arrived([10 * n + k for n in range(len(moments)) for k in (1, 2, 3)], server.events)

    @FORKS
    def test_fork_beside_threads_that_record_their_first_event(self) -> None:
        """Whatever that imports or locks, no child waits for it; and `flush` goes on beside all the forks."""
        server = self.server()
        self.assert_says(["[3]", "True"], """
            class Slow:
                def find_spec(self, name, *ignored):
                    if threading.current_thread().name == "first": time.sleep(.02)
            sys.meta_path.insert(0, Slow())
            def work(first):
                own = Telemetry()
                for number in range(20):
                    record(first + number, own)
                    if number % 5 == 4: flushed.append(own.flush(15))
            codes, flushed = [], []
            os.register_at_fork(before=lambda: Telemetry().track("init_executed"))  # as threads do in a fork
            threads = [threading.Thread(target=work, args=(first,), name="first") for first in (100, 200)]
            for thread in threads: thread.start()
            for number in range(12):
                time.sleep(.004)
                child = os.fork()
                if not child:
                    record(number)
                    mine.close(15)  # it takes events of its parent along
                    os._exit(3)
                codes.append(code_of(child))
            print(sorted({*codes}))
            for thread in threads: thread.join()
            print(all(flushed) or [Path(outbox + name).read_text() for name in os.listdir(outbox)])
        """, self.user(server), flags=FORKING)
        self.assert_arrived([*range(100, 120), *range(200, 220)], server.events)

    def test_no_module_is_loaded_after_the_network_code(self) -> None:
        """A module's lock that is held in a fork would be held in the child for ever."""
        busy = (503, {"Retry-After": "Fri, 01 Jan 2038 00:00:00 GMT"})
        for number, server in enumerate((self.server(), self.server(busy), self.server(silent))):
            for scheme in ("http", "https"):  # the latter to a server that does not speak it
                env = self.user(server)
                env["CODEGEN_TELEMETRY_ENDPOINT"] = scheme + env["CODEGEN_TELEMETRY_ENDPOINT"][4:]
                with self.subTest(number, scheme=scheme):
                    self.assert_says(["[]"], """
                        import codegen_telemetry
                        record(1)
                        codegen_telemetry._load_network_code()
                        import ssl
                        before = set(sys.modules)
                        mine.flush(3)
                        print(sorted(set(sys.modules) - before))
                    """, env)

    @FORKS
    def test_a_fork_waits_for_no_request_and_a_child_not_for_that_of_its_parent(self) -> None:
        self.assert_says(["True True 3"], """
            began = threading.Event()
            at_look_up(began.set)
            record(1)
            began.wait(9)
            times = [time.monotonic()]
            child = os.fork()
            if not child: sys.exit(3)
            times.append(time.monotonic())
            code = code_of(child)
            print(times[1] - times[0] < .3, time.monotonic() - times[1] < .6, code, flush=True)
            os._exit(0)
        """, self.user(self.server(silent)), flags=FORKING)

    @FORKS
    def test_multiprocessing(self) -> None:
        (self.home / "job.py").write_text(PRELUDE + "def work(number): record(number)\n")
        server = self.server()
        env = self.user(server, **PATIENT)
        code = """
            import multiprocessing, job
            method, first = sys.argv[1], int(sys.argv[2])
            record(first)
            context = multiprocessing.get_context(method)
            workers = [context.Process(target=job.work, args=(first + n,)) for n in (1, 2)]
            for worker in workers: worker.start()
            for worker in workers: worker.join(15)
            sys.exit(sum(worker.exitcode for worker in workers))
        """
        ended = self.together([self.child(code, env, method, first, flags=("-W", "ignore"))
                               for method, first in (("fork", 10), ("spawn", 20), ("forkserver", 30))])
        self.assertEqual({(one.code, one.err) for one in ended}, {(0, "")})
        self.sweep(env)
        # Workers end by `os._exit`, so an answer may be lost.
        self.assert_arrived([tens + k for tens in (10, 20, 30) for k in (0, 1, 2)], server.events, once=False)

    @unittest.skipUnless(hasattr(signal, "pthread_sigmask"), "signals")
    def test_our_thread_takes_no_signal_of_the_host(self) -> None:
        """Only those of a crash. Where the host has threads run in one of its own, as gevent does, that keeps
        taking its signals, also in a fork, which up to 3.13 has the id of its parent's main thread; one that
        the host blocks waits for it."""
        self.assert_says(["True False", "True True", "True"], """
            def mask(): return signal.pthread_sigmask(signal.SIG_BLOCK, ())
            def look(): masks.append(mask())
            masks, before, start = [], mask(), threading.Thread.start
            at_look_up(look, lambda: None, lambda: time.sleep(.3))
            record(1)
            mine.flush(9)
            ours, = masks
            print({signal.SIGTERM, signal.SIGINT, signal.SIGPIPE} <= ours, signal.SIGSEGV in ours)
            until(lambda: threading.active_count() == 1)
            threading.Thread.start = lambda thread: thread.run()
            threading.main_thread()._native_id = 1
            record(2)
            threading.Thread.start = start
            print(before == mask(), mine.flush(9))
            record(3)
            time.sleep(.1)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(.02)
            print(signal.sigwait([signal.SIGTERM]) == signal.SIGTERM)
        """, self.user(self.server()))

    def test_a_host_with_small_stacks_is_not_ended(self) -> None:
        """32 kB do not hold the network code; since 3.15 Python itself refuses so little."""
        server = self.server()
        for size in (32, 56):
            with self.subTest(size=size):
                env = self.user(server)
                ended = self.run_child("""
                    try: threading.stack_size(int(sys.argv[1]) * 1024)
                    except ValueError: sys.exit(3)
                    record(1)
                    sys.exit(3)
                """, env, size)
                self.assertEqual((ended.code, ended.err), (3, ""))
                self.assertEqual((self.numbers(env), server.requests), (ended.recorded, []))

    def test_a_python_without_ctypes_sends(self) -> None:
        self.assert_says(["True"], """
            class Forbidden:
                def find_spec(self, name, *ignored):
                    if name == "ctypes": raise MemoryError
            sys.meta_path.insert(0, Forbidden())
            record(1)
            print(mine.flush(15))
        """, self.user(self.server()))

    def test_the_size_of_the_hosts_stacks_stays_as_it_is(self) -> None:
        """To ask Python for it sets it to that of the system."""
        self.assert_says(["True True 64"], """
            threading.stack_size(2 ** 26)
            with mine.command("build"): record(1)
            print(mine.flush(15), mine.close(1), threading.stack_size() >> 20)
        """, self.user(self.server()))


def silent(handler: Any) -> None:
    """Never answers."""
    threading.Event().wait(6)


def late(seconds: float) -> Any:
    """Answers so many seconds after the request."""
    def answer(handler: Any) -> None:
        threading.Event().wait(seconds)
        handler.send_response(204)
        handler.end_headers()
    return answer


def dripping(handler: Any) -> None:
    """Answers a byte each 100 ms: no single read is slow."""
    for byte in b"HTTP/1.1 204 No Content\r\nX-Filler: " + b"x" * 30:
        handler.connection.sendall(bytes([byte]))
        threading.Event().wait(.1)


def resetting(handler: Any) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


def closing(handler: Any) -> None:
    handler.close_connection = True


def raw(*parts: bytes, again: bytes = b"") -> Any:
    """Answers with these bytes, and with others for ever."""
    def answer(handler: Any) -> None:
        for part in parts:
            handler.connection.sendall(part)
        while again:
            handler.connection.sendall(again)
            threading.Event().wait(.005)
    return answer


def dated(handler: Any) -> None:
    """Asks for an hour, as an HTTP date."""
    handler.send_response(429)
    due = time.gmtime(time.time() + 3600)
    handler.send_header("Retry-After", time.strftime("%a, %d %b %Y %H:%M:%S GMT", due))
    handler.end_headers()


PROCESSING, HINTS = b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
MOVED = {"Location": "/elsewhere"}
# The server's answer, whether the event is kept, and the seconds of the pause (None: delivered, no pause).
ANSWERS: Dict[str, Any] = {
    "200": (200, False, None), "204": (204, False, None), "299": (299, False, None),
    "102-204": (raw(PROCESSING, HINTS, PROCESSING, b"HTTP/1.1 204 No Content\r\n\r\n"), False, None),
    "103-500": (raw(HINTS, b"HTTP/1.1 500 Error\r\n\r\n"), True, 600),
    "endless-body": (raw(b"HTTP/1.1 200 OK\r\n\r\n", again=b"x" * 65536), False, None),
    "301": ((301, MOVED), True, 600), "302": ((302, MOVED), True, 600), "304": (304, True, 600),
    "307": ((307, MOVED), True, 600), "400": (400, False, 600), "401": (401, True, 600),
    "403": (403, True, 600), "404": (404, True, 600), "407": (407, True, 600), "408": (408, True, 600),
    "410": (410, False, 600), "413": (413, False, 600), "422": (422, False, 600), "425": (425, True, 600),
    "429": (429, True, 600), "429-seconds": ((429, {"Retry-After": "120"}), True, 120),
    "429-date": (dated, True, 3600), "429-rubbish": ((429, {"Retry-After": "soon \xb2"}), True, 600),
    "429-for-ever": ((429, {"Retry-After": "9" * 400}), True, 86400), "500": (500, True, 600),
    "503": ((503, {"Retry-After": "1200"}), True, 1200), "599": (599, True, 600),
    "resetting": (resetting, True, 600), "closing": (closing, True, 600),
    "garbage": (raw(b"\0\xff\r\nno HTTP at all\r\n\r\n"), True, 600),
}
# What takes its time, and what a child does before it records: each is a failure.
SLOW: Dict[str, Any] = {
    "silent": silent, "dripping": dripping,
    "endless headers": raw(b"HTTP/1.1 200 OK\r\n", again=b"X-Filler: x\r\n" * 50),
    "endless 102": raw(again=PROCESSING)}
BREAKAGES = {
    "look-up hangs": "at_look_up(lambda: time.sleep(30))",
    "look-up is late": "threading.Timer(1.2, print).start(); at_look_up(lambda: time.sleep(1.1))",
    "look-up fails": "import socket\ndef refuse(*a, **k): raise socket.gaierror(-2, 'no such name')\n"
                     "socket.getaddrinfo = refuse",
    "connection is lost": "import socket; connect = socket.socket.connect\n"
                          "signal.signal(getattr(signal, 'SIGPIPE', signal.SIGTERM), signal.SIG_DFL)\n"
                          "socket.socket.connect = lambda *a: (connect(*a), a[0].shutdown(socket.SHUT_WR))",
    "proxy dead": "os.environ['HTTP_PROXY'] = 'http://127.0.0.1:9'",
    "proxy of another kind": "os.environ['http_proxy'] = 'socks5' + sys.argv[1][4:]",
    "proxy malformed": "os.environ['http_proxy'] = 'socks5://[::'",
    "plain server, https": "os.environ['CODEGEN_TELEMETRY_ENDPOINT'] = 'https' + sys.argv[1][4:]",
    "refused": "os.environ['CODEGEN_TELEMETRY_ENDPOINT'] = 'http://127.0.0.1:9/collect'",
}


class FaultTests(DeliveryCase):
    """Whatever the network does, the host does not notice it, and pays once."""

    def test_an_answer_decides_what_is_kept_and_how_long_the_pause_is(self) -> None:
        def answer(handler: Any) -> None:
            found = ANSWERS[handler.path.split("/")[2].partition("?")[0]][0]
            if callable(found):
                return found(handler)
            status, headers = found if isinstance(found, tuple) else (found, {})
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()

        server = self.server(answer)
        env = self.user(server, **PATIENT)
        ended = self.run_child("""
            known = set()
            for number, name in enumerate(sys.argv[2:], 1):
                os.environ["CODEGEN_TELEMETRY_ENDPOINT"] = sys.argv[1] + "/" + name
                own = Telemetry()
                record(number, own)
                found, new = [name, own.flush(15)], {*waiting(".state")} - known
                for name in new:
                    with open(outbox + name) as file: state = json.load(file)
                    found += [state["why"], state["failures"], state["until"] - time.time()]
                known |= new
                print(json.dumps(found))
            ending()
        """, env, server.url, *ANSWERS, flags=STRICT)
        self.assertEqual((ended.code, ended.err), (0, ""))
        self.assertLess(ended.exit_seconds, 3)  # of 15
        kept = [json.loads(path.read_text())["endpoint"] for path in self.files(env)]
        rows = enumerate(zip(ANSWERS.items(), map(json.loads, ended.lines)), 1)
        for number, ((name, (_, is_kept, pause)), (_, said, *state)) in rows:
            with self.subTest(name):
                self.assertEqual((said, state[:2]), (True, []) if pause is None else (False, ["failed", 1]))
                self.assertAlmostEqual((state[2:] or [0])[0], pause or 0, delta=3)
                self.assertEqual(kept.count(f"{server.url}/{name}"), int(is_kept))
                self.assertEqual(len(self.arrivals(server.events)[number]), 1)

    def test_a_fault_costs_one_run_a_second_at_most(self) -> None:
        cases = {name: (self.server(answer), "") for name, answer in SLOW.items()}
        cases.update({name: (self.server(), code) for name, code in BREAKAGES.items()})
        envs = {name: self.user(server) for name, (server, _) in cases.items()}
        run = "\nrecord(1)\nuntil(lambda: not waiting() or waiting('.state'))\nending()\nsys.exit(7)"
        first = self.crew([partial(self.child, code + run, envs[name], server.url, flags=STRICT)
                           for name, (server, code) in cases.items()], 12)
        for (name, (server, code)), ended in zip(cases.items(), first):
            with self.subTest(name):
                self.assertEqual((ended.code, ended.err, "".join(ended.lines)), (7, "", ""))
                self.assertLess(ended.exit_seconds, 2.2)
                self.assertEqual((self.numbers(envs[name]), len(server.requests)), ([1], 0 if code else 1))
                self.assertAlmostEqual(self.states(envs[name])["failed"], 600, delta=15)
            server.answer = 204
        named = {name: cases[name] for name in (*SLOW, "look-up is late", "look-up fails", "proxy dead")}
        second = self.crew([partial(self.child, "record(2)\nprint(network(), mine.flush())\nending()",
                                    {**envs[name], **PATIENT}) for name in named])
        self.sweep(*[envs[name] for name in named])
        for (name, (server, code)), ended in zip(named.items(), second):
            with self.subTest(name, run="in the pause, and after it"):
                self.assertEqual((ended.code, ended.err, ended.lines), (0, "", ["[1] False"]))
                self.assertLess(ended.exit_seconds, 3)  # of 15
                self.assert_arrived([1, 2], server.events, once=False)
                self.assert_arrived([1, 2], server.events[0 if code else 1:])

    def test_pauses_double_up_to_a_day_and_begin_anew_after_a_success(self) -> None:
        server = self.server(lambda handler: handler.send_error(204 if len(server.requests) == 11 else 500))
        ended = self.run_child("""
            for number in range(1, 13):
                own = Telemetry()
                record(number, own)
                own.flush(15)
                for name in waiting(".state"):
                    with open(outbox + name) as file: found = json.load(file)
                    print(round((found["until"] - time.time()) / 60), flush=True)
                    put_state(json.dumps({**found, "until": time.time() - 1}), name[:8])
        """, self.user(server))
        expected = [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440, 10]
        self.assertEqual([int(line) for line in ended.lines], expected, ended.err)

    NOES = {"a variable": "os.environ['DO_NOT_TRACK'] = '1'",
            "debug mode": "os.environ['CODEGEN_TELEMETRY_DEBUG'] = '1'",
            "another program": "with open(outbox + '../config.json', 'r+') as file:\n"
                               "        text = file.read().replace('true', 'false', 1)\n"
                               "        file.seek(0), file.write(text), file.truncate()",
            "disable": "main(['disable'])"}

    def test_a_request_that_is_refused_because_of_a_no_has_not_failed(self) -> None:
        """Somebody says no while its host is looked up, or before an answer that is an error."""
        code = """
            def say_no():
                NO
            if sys.argv[1] == "look-up": at_look_up(say_no)
            record(1)
            if sys.argv[1] == "answer":
                sys.stdin.readline()
                say_no()
                print("said", flush=True)
            ending()
        """
        rows = [(name, moment) for name in self.NOES for moment in ("look-up", "answer")]
        said = [threading.Event() for _ in rows]
        servers = [self.server(lambda handler, event=event: event.wait(WAIT) and handler.send_error(500))
                   for event in said]
        envs = [self.user(server, **PATIENT) for server in servers]
        children = [self.child(textwrap.dedent(code).replace("NO\n", self.NOES[name] + "\n"), env, moment,
                               stdin=subprocess.PIPE) for (name, moment), env in zip(rows, envs)]
        for (_, moment), child, server, event in zip(rows, children, servers, said):
            if moment == "answer":
                server.arrived.get(timeout=WAIT)
                child.stdin.write("\n")
                child.stdin.flush()
                while child.stdout.readline() not in ("said\n", ""):
                    pass
            event.set()
        for (name, moment), ended, server, env in zip(rows, self.together(children), servers, envs):
            with self.subTest(name, during=moment):
                self.assertEqual((ended.code, "Traceback" in ended.err), (0, False), ended.err)
                self.assertEqual(len(server.requests), int(moment == "answer"))
                left = [path.suffix for path in self.files(env, "*")]
                if name == "another program":  # the next run deletes what waits
                    self.assertLessEqual({*left}, {".json"})
                else:
                    self.assertEqual(left, [] if name == "disable" else [".json"])

    @unittest.skipUnless(sys.platform == "linux", "a full backlog swallows packets on Linux")
    def test_addresses_that_swallow_packets_do_not_use_up_the_second(self) -> None:
        dead, held = [socket.socket(), socket.socket()], []
        for listener in dead:
            self.addCleanup(listener.close)
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):
                held.append(socket.socket())
                self.addCleanup(held[-1].close)
                held[-1].setblocking(False)
                held[-1].connect_ex(listener.getsockname())
        server = self.server()
        self.assert_says(["True"], """
            import socket
            def look_up(*args, **params):
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))
                        for port in sys.argv[1:]]
            socket.getaddrinfo = look_up
            record(1)
            print(mine.flush(15))
        """, self.user(server), *[one.getsockname()[1] for one in dead], server.port)
        self.assertEqual(len(server.requests), 1)

    @SIGNALS
    def test_a_socket_never_takes_the_place_of_a_closed_standard_stream(self) -> None:
        server = self.server()
        for closed in ("0", "1", "0, 1, 2"):
            with self.subTest(closed=closed):
                env = self.user(server)
                ended = self.run_child(f"""
                    for fd in ({closed},): os.close(fd)
                    mine.track("command_executed", generator_count=1)
                    os._exit(3 if mine.flush(5) is False else 4)
                """, env)
                self.assertEqual((ended.code, ended.err, ended.out), (3, "", ""))
                self.assertEqual((self.numbers(env), server.requests), ([1], []))


class StateTests(DeliveryCase):
    """Hold, pause and rest: what leaves when."""

    COMMAND = "with mine.command('build'): seen += network(); record(n)"
    RECORD = "record(n)"
    FLUSH = "record(n)\nprint(mine.flush(9))"
    CLOSE = "record(n)\nprint(mine.close(9))"
    # What lies on disk, how the run goes, whether its event leaves, and variables.
    TABLE: Dict[str, Any] = {
        "hold": ("state('notice', 50)", COMMAND, False, {}),
        "pause": ("state('failed', 500, 1)", COMMAND, False, {}),
        "pause after a cut": ("state('cut', 50)", COMMAND, False, {}),
        "rest": ("state('delivered', 50)", COMMAND, False, {}),
        "hold, 25 wait": ("older(*range(n + 1, n + 25)); state('notice', 50)", RECORD, False, {}),
        "pause, 25 wait": ("older(*range(n + 1, n + 25)); state('failed', 500, 1)", RECORD, False, {}),
        "rest, 24 wait": ("older(*range(n + 1, n + 23)); state('delivered', 50)", RECORD, False, {}),
        "rest, 25 wait": ("older(*range(n + 1, n + 24)); state('delivered', 50)", RECORD, True, {}),
        "hold, flush": ("state('notice', 50)", FLUSH, False, {}),
        "pause, flush": ("state('failed', 500, 1)", FLUSH, False, {}),
        "cut, flush": ("state('cut', 50)", FLUSH, False, {}),
        "rest, flush": ("state('delivered', 50)", FLUSH, True, {}),
        "pause, close": ("state('failed', 500, 1)", CLOSE, False, {}),
        "rest, close": ("state('delivered', 50)", CLOSE, True, {}),
        "hold is over": ("state('notice', -1)", COMMAND, True, {}),
        "pause is over": ("state('failed', -1, 1)", COMMAND, True, {}),
        "rest is over": ("state('delivered', -1)", COMMAND, True, {}),
        # Longer than they may be: the clock was set back.
        "hold, pause of two days": ("state('notice', 3600); state('failed', 172800, 1)", COMMAND, True, {}),
        "cut of an hour": ("state('cut', 3600)", COMMAND, True, {}),
        "rest of an hour": ("state('delivered', 3600)", COMMAND, True, {}),
        "hold, pause, enable": ("state('notice', 50); state('failed', 500, 1); main(['enable'])", COMMAND,
                                True, {}),
        "rest, enable": ("state('delivered', 50); main(['enable'])", COMMAND, True, {}),
        "hold, rest, in CI": ("state('notice', 50); state('delivered', 50)", COMMAND, True, {"CI": "1"}),
        "pause, in CI": ("state('failed', 500, 1)", COMMAND, False, {"CI": "1"}),
        "hold, rest, named by variable": ("state('notice', 50); state('delivered', 50)", COMMAND, True,
                                          {"ENDPOINT": ""}),
        "pause, named by variable": ("state('failed', 500, 1)", COMMAND, False, {"ENDPOINT": ""}),
        "off": ("os.environ['DO_NOT_TRACK'] = '1'", COMMAND, False, {}),
    }

    def test_table(self) -> None:
        """Where nothing may leave there is no thread, no network code, no waiting."""
        server = self.server()
        code = """
            n, seen = int(sys.argv[1]), []
            older(n + 50)
            BEFORE
            seen += network()
            RUN
            seen += network()
            print(set(seen) == {1})
            ending()
        """
        starts = []
        for number, (before, run, _, more) in enumerate(self.TABLE.values(), 1):
            env = self.user(server, "ENDPOINT" not in more, **PATIENT, **more)
            program = textwrap.dedent(code).replace("BEFORE", before).replace("RUN", run)
            starts.append(partial(self.child, program, env, number * 100))
        ended = self.crew(starts)
        found = self.arrivals(server.events)
        for number, ((name, (_, run, leaves, _)), one) in enumerate(zip(self.TABLE.items(), ended), 1):
            with self.subTest(name):
                self.assertEqual((one.code, "Traceback" in one.err), (0, False), one.err)
                self.assertEqual(number * 100 in found, leaves)
                if not leaves:
                    self.assertEqual(one.lines[-1], "True")
                    self.assertLess(one.exit_seconds, 3)  # of 15
                    self.assertFalse({n for n in found if n // 100 == number})
                if "mine." in run and "print" in run:
                    self.assertEqual(one.lines[-2], str(leaves))
        self.assertEqual({len(stamps) for stamps in found.values()}, {1})

    def test_a_damaged_one_holds_nothing_up(self) -> None:
        damaged = ["{", "[]", "\0", "[" * 9000, '{"until": "x", "why": "failed", "failures": 0}',
                   '{"until": 1e999, "why": "notice", "failures": 1, "process": 1}',
                   '{"until": NaN, "why": "delivered", "failures": 1}',
                   '{"until": 0, "why": "failed", "failures": -1' + "0" * 400 + "}"]
        server = self.server()
        self.assert_says([f"{number} True" for number in range(len(damaged))], """
            older(0)
            for number, text in enumerate(json.loads(sys.argv[1])):
                for name in (waiting() or [key])[0][26:34], "hold": put_state(text, name)
                key = "-" * 26 + waiting(".state")[0].replace("hold", "")[:8]
                record(100 + number)
                print(number, mine.flush(15))
        """, self.user(server, in_file=True), json.dumps(damaged))
        self.assert_arrived(range(100, 100 + len(damaged)), server.events)

    def test_a_delivered_request_begins_a_rest_outside_ci_where_no_variable_names_the_place(self) -> None:
        rows: List[Any] = [(True, {}, ["delivered"], 1), (True, {"CI": "1"}, [], 2), (False, {}, [], 2)]
        for in_file, more, states, requests in rows:
            with self.subTest(in_file=in_file, **more):
                server = self.server()
                env = self.user(server, in_file, **PATIENT, **more)
                for number in (1, 2):
                    self.assertEqual(self.run_child("record(int(sys.argv[1]))", env, number).err, "")
                self.assertEqual((len(server.requests), list(self.states(env))), (requests, states))
                self.assertTrue(all(50 < seconds <= 60 for seconds in self.states(env).values()))
                self.assert_says(["True"], "record(3)\nprint(mine.flush(15))", env)
                self.assertEqual(len(server.requests), requests + 1)  # all that waits goes in one request
                self.assert_arrived([1, 2, 3], server.events)

    @FORKS
    def test_many_runs_in_a_row_make_few_requests(self) -> None:
        """One, and another for each 25 events."""
        server, count = self.server(), 60 if CPYTHON else 30
        env = self.user(server, in_file=True, **PATIENT)
        ended = self.run_child("""
            for number in range(1, int(sys.argv[1]) + 1):
                child = os.fork()
                if not child:
                    record(number, Telemetry(exit_wait=15))
                    sys.exit()
                os.waitpid(child, 0)
        """, env, count)
        self.assertEqual((ended.code, ended.err), (0, ""))
        self.assertTrue(0 <= len(server.requests) - count // 25 <= 2, len(server.requests))
        self.sweep(env)
        self.assert_arrived(range(1, count + 1), server.events)

    def test_a_request_about_to_go_is_stopped_by_a_hold_or_a_pause_and_not_by_a_rest(self) -> None:
        server = self.server()
        rows = {"notice": False, "failed": False, "cut": False, "delivered": True}
        envs = [self.user(server, in_file=True) for _ in rows]
        code = """
            at_look_up(lambda: state(sys.argv[2], 50, 1))  # as another process does
            record(int(sys.argv[1]))
            print(mine.flush(15))
        """
        ended = self.together([self.child(code, env, number, why)
                               for number, (why, env) in enumerate(zip(rows, envs), 1)])
        found = self.arrivals(server.events)
        for number, (why, one, env) in enumerate(zip(rows, ended, envs), 1):
            with self.subTest(why):
                self.assertEqual((one.code, one.err, one.lines), (0, "", [str(rows[why])]))
                self.assertEqual((number in found, list(self.states(env))), (rows[why], [why]))
                self.assertEqual(self.numbers(env), [] if rows[why] else [number])

    def test_a_command_sends_what_waits_beside_the_tools_work(self) -> None:
        """Its thread starts with the block, and loads the network code also where nothing waits."""
        server = self.server()
        for before, condition in (("older(1)", "not waiting() and not waiting('.claim')"),
                                  ("", "'http.client' in sys.modules")):
            self.assert_says(["True"], f"""
                {before}
                with mine.command("build"): print(until(lambda: {condition}))
            """, self.user(server, **PATIENT))
        self.assertEqual([len(document["events"]) for _, _, document in server.requests][:2], [1, 1])
        self.assert_arrived([1], server.events)

    @FORKS
    def test_after_the_notice_everything_is_held(self) -> None:
        """In this run, and for a minute in others, forked ones too; also where the product or another program
        named the destination, but not where a variable does."""
        code = PRELUDE + textwrap.dedent("""
            own = Product(endpoint=sys.argv[1], tracking_id="G-1", api_secret="own")
            mine, first = Telemetry(own if len(sys.argv) > 3 else CODEGEN), int(sys.argv[2])
            with mine.command("build"): record(first, mine)
            child = os.fork()
            if not child:
                record(first + 1, mine)
                os._exit(mine.flush(1))
            print(code_of(child), network(), mine.flush(5), flush=True)
        """)
        self.config.write_text(json.dumps({**self.document(), "hasShownTelemetryNotice": False}))
        for more in ([], ["own"]):
            with self.subTest(more=more):
                server = self.server()
                env = self.user(None if more else server, in_file=True)
                shown = self.on_terminal(code, env, server.url, "1", *more, flags=FORKING)
                self.assertIn("To disable: codegen telemetry disable", shown.stderr)
                later = self.start(code, env, server.url, "3", *more, flags=FORKING).communicate(timeout=WAIT)
                self.assertEqual(later[1], "")
                for out in (shown.stdout, later[0]):
                    self.assertIn("0 [1] False", out.splitlines())
                self.assertEqual((server.requests, list(self.states(env))), ([], ["notice"]))
                self.expire(env)
                self.start(code, env, server.url, "5", *more, flags=FORKING).communicate(timeout=WAIT)
                self.assert_arrived([1, 2, 3, 4, 5, 6], server.events)
        server = self.server()
        shown = self.on_terminal(PRELUDE + "record(1)\nprint(mine.flush(15))", self.user(server))
        self.assertIn("To disable", shown.stderr)
        self.assertEqual((shown.stdout, len(server.requests)), ("#1\nTrue\n", 1))


class ExitTests(DeliveryCase):
    """The interpreter's end."""

    def test_exit_wait_is_honoured(self) -> None:
        code = """
            began = threading.Event()
            at_look_up(began.set)
            record(1)
            began.wait()
            ending()
        """
        waits = (0, .3, .6)
        ended = self.crew([partial(self.child, code, self.user(self.server(silent), EXIT_WAIT=str(wait)))
                           for wait in waits])
        for wait, one in zip(waits, ended):
            with self.subTest(wait=wait):
                self.assertEqual((one.code, one.err), (0, ""))
                self.assertTrue(wait - .05 <= one.exit_seconds <= wait + .5, one.exit_seconds)

    # How a request that is under way is cut: code, why the pause begins, and variables.
    CUTS: Dict[str, Any] = {
        "exit at once": ("sys.exit(3)", "cut", {"EXIT_WAIT": "0"}),
        "exit later": ("time.sleep(.3); sys.exit(3)", "failed", {"EXIT_WAIT": "0"}),
        "exit that waits": ("sys.exit(3)", "failed", {"EXIT_WAIT": ".3"}),
        "close at once": ("mine.close(.05); os._exit(3)", "cut", {}),
        "close later": ("mine.close(.3); os._exit(3)", "failed", {}),
        "flush, exit": ("mine.flush(.01); sys.exit(3)", "cut", {"EXIT_WAIT": "0"}),
        "Ctrl-C at once": ("interrupt(.05); sys.exit(3)", "cut", {"EXIT_WAIT": "15"}),
        "Ctrl-C later": ("interrupt(.3); sys.exit(3)", "failed", {"EXIT_WAIT": "15"}),
        "SIGTERM whose handler exits": ("interrupt(.3, signal.SIGTERM); sys.exit(3)", "failed",
                                        {"EXIT_WAIT": "15"}),
    }

    @SIGNALS
    def test_a_request_that_is_cut_begins_a_pause(self) -> None:
        """It has failed if it had a quarter of a second; else that is a pause of a minute, and no failure."""
        code = """
            def interrupt(seconds, number=signal.SIGINT):
                begun = threading.Timer(seconds, os.kill, (os.getpid(), number))
                begun.daemon = True
                begun.start()
            signal.signal(signal.SIGTERM, lambda *ignored: sys.exit(143))
            began = threading.Event()
            at_look_up(began.set)
            record(1)
            began.wait()
            ending()
        """
        # PyPy loses some interrupts of a join: seen in 17 of 250; then the wait lasts as long as it may.
        cuts = {name: row for name, row in self.CUTS.items() if CPYTHON or "interrupt" not in row[0]}
        envs = [self.user(self.server(silent), **row[2]) for row in cuts.values()]
        ended = self.crew([partial(self.child, textwrap.dedent(code) + row[0], env, flags=STRICT)
                           for row, env in zip(cuts.values(), envs)], 5)
        for (name, (_, why, _)), one, env in zip(cuts.items(), ended, envs):
            with self.subTest(name):
                self.assertEqual((one.code, one.err, self.numbers(env)), (3, "", [1]))
                self.assertLess(one.exit_seconds, 1.1)
                self.assertEqual(self.files(env, "*.claim"), [])
                self.assertAlmostEqual(self.states(env)[why], {"cut": 60, "failed": 600}[why], delta=10)
                state = json.loads(self.files(env, "*.state")[0].read_text())
                self.assertEqual(state["failures"], {"cut": 0, "failed": 1}[why])

    @FORKS
    def test_a_short_wait_repeats_no_event_with_every_run(self) -> None:
        """Whatever moment of a request the exit comes at."""
        rows = [(0, .1), (.05, .1), (.3, .5)]  # what the exit waits, and when the answer comes
        servers = [self.server(late(seconds)) for _, seconds in rows]
        envs = [self.user(server) for server in servers]
        code = """
            import random, urllib.request, http.client, encodings.idna  # requests begin at once
            chance = random.Random(sys.argv[2])
            for number in range(1, 9):
                moment, child = chance.uniform(0, .1), os.fork()
                if not child:
                    record(number, Telemetry(exit_wait=float(sys.argv[1])))
                    time.sleep(moment)
                    sys.exit()
                os.waitpid(child, 0)
        """
        ended = self.crew([partial(self.child, code, env, wait, SEED, flags=FORKING)
                           for (wait, _), env in zip(rows, envs)])
        arrived = [[*server.events] for server in servers]
        self.sweep(*envs)
        for row, server, one, before in zip(rows, servers, ended, arrived):
            with self.subTest(exit_wait=row[0], answer=row[1], TEST_SEED=SEED):
                self.assertEqual((one.code, one.err), (0, ""))
                self.assertLessEqual(max(map(len, self.arrivals(before).values()), default=0), 1)
                self.assert_arrived(range(1, 9), server.events, once=False)
                self.assertLessEqual(max(map(len, self.arrivals(server.events).values())), 2)

    def test_an_exit_begins_no_request_where_less_than_a_quarter_of_a_second_is_left(self) -> None:
        """The event waits: neither in a claim, which the next run could take over only after ten seconds, nor
        for the end of a pause. So it does where no network code or no thread is to be had."""
        server = self.server()
        rows = [(0, "load_slowly(3)"), (.2, ""), (.2, "load_slowly(3)"), (.7, "load_slowly(.6)"),
                (.7, "sys.modules['http.client'] = None"), (.7, "threading.Thread.start = lonely"),
                (.7, "threading.Thread = lonely")]
        envs = [self.user(server, EXIT_WAIT=str(wait)) for wait, _ in rows]
        ended = self.crew([partial(self.child, code + "\nrecord(1)\nending()", env, flags=STRICT)
                           for env, (_, code) in zip(envs, rows)], 4)
        self.assertEqual(server.requests, [])
        for (wait, code), one, env in zip(rows, ended, envs):
            with self.subTest(code, exit_wait=wait):
                self.assertEqual((one.code, one.err), (0, ""))
                self.assertEqual([path.suffix for path in self.files(env, "*")], [".json"])
                self.assertLess(one.exit_seconds, wait + (1.5 if CPYTHON else 3.6))

    @SIGNALS
    def test_ctrl_c_in_a_command_ends_the_process_by_it(self) -> None:
        """At once, also where an older event is on its way; what was recorded arrives later."""
        chance = random.Random(SEED)
        servers = [*(self.server() for _ in range(3)), self.server(silent)]
        envs = [self.user(server, **PATIENT) for server in servers]
        code = """
            older(1)
            try:
                with mine.command("build"):
                    print("in", flush=True)
                    time.sleep(20)
            finally: ending()
        """

        def interrupted(env: Mapping[str, str], server: Server, moment: float) -> subprocess.Popen[str]:
            child = self.child(code, env)
            while child.stdout.readline() not in ("in\n", ""):
                pass
            if server is servers[-1]:
                server.arrived.get(timeout=WAIT)
            threading.Event().wait(moment)
            child.send_signal(signal.SIGINT)
            return child

        for one in self.crew([partial(interrupted, env, server, chance.uniform(0, .12))
                              for env, server in zip(envs, servers)], 3):
            with self.subTest(TEST_SEED=SEED):
                self.assertEqual((one.code, one.err.count("Traceback")), (-signal.SIGINT, 1), one.err)
                self.assertIn("KeyboardInterrupt", one.err.splitlines()[-1])
                self.assertLess(one.exit_seconds, 3)  # of 15
        servers[-1].answer = 204
        self.sweep(*envs)
        for server in servers:
            builds = [event for event in server.events if event["params"].get("command") == "build"]
            self.assertEqual({event["name"] for event in builds}, {"command_executed", "error_occurred"})
            self.assertEqual(len({event["timestamp_micros"] for event in builds}), 2)

    def test_events_of_the_last_moment(self) -> None:
        server = self.server()
        env = self.user(server, **PATIENT)
        codes = ["""
            import atexit
            first = int(sys.argv[1])
            atexit.register(record, first + 1)
            record(first + 2)
            atexit.register(record, first + 3)
            def ordinary():
                time.sleep(.2)  # the main thread has ended by then
                record(first + 4)
                time.sleep(.02)
                record(first + 5)
            def daemon():
                for number in range(6, 40):
                    record(first + number)
                    time.sleep(.01)
            threading.Thread(target=ordinary).start()
            threading.Thread(target=daemon, daemon=True).start()
        """, """
            class Last:  # too late for a thread
                def __del__(self, record=record, close=mine.close, first=int(sys.argv[1])):
                    for number in range(1, 6): record(first + number)
                    close()
            last = Last()
        """]
        ended = self.together([self.child(code, env, 100 * n) for n, code in enumerate(codes * 2, 1)])
        self.assertEqual({(one.code, one.err) for one in ended}, {(0, "")})
        self.sweep(env)
        for n, one in enumerate(ended, 1):
            if CPYTHON or n % 2:  # PyPy destroys nothing at its end
                self.assertLessEqual({100 * n + k for k in range(1, 6)}, {*one.recorded})
        self.assert_arrived([number for one in ended for number in one.recorded], server.events)

    def test_nothing_is_printed_over_many_exits(self) -> None:
        codes = ("record(1)", "threading.Timer(.03, record, (1,)).start()",
                 "with mine.command('x'): record(1)", "record(1); mine.flush(.02); record(2); sys.exit(7)")
        ended = self.crew([partial(self.child, code, self.user(server, in_file), flags=STRICT)
                           for server, in_file in ((self.server(), True), (self.server(late(.1)), False),
                                                   (self.server(500), True)) for code in codes])
        self.assertEqual([(one.code, one.err, one.lines) for one in ended],
                         [(7 if "7" in code else 0, "", []) for code in codes * 3])


class FlushTests(DeliveryCase):
    """`flush` and `close` tell the truth."""

    def test_flush_and_close(self) -> None:
        timed = "def timed(call, *a):\n    began = time.monotonic()\n    r = call(*a)\n" \
                "    return r, time.monotonic() - began < a[0] + .5\n"
        cases = {
            "delivered": (204, "print(mine.flush(5)); record(1); print(mine.flush(5), len(waiting()))"
                               "\nrecord(2); print(mine.close(5)); record(3)"
                               "\nprint(mine.flush(5), len(waiting()))",
                          ["True", "True 0", "True", "True 0"], [1, 2]),
            "silent": (silent, "record(1); print(*timed(mine.flush, .2)); print(*timed(mine.close, .1))"
                               "\nrecord(2); print(*timed(mine.flush, 5)); print(len(waiting()))",
                       ["False True", "False True", "False True", "1"], None),
            "failed": (500, "record(1); print(mine.flush(5)); record(2)"
                            "\nprint(*timed(mine.flush, 0)); print(mine.close(), len(waiting()))",
                       ["False", "False True", "False 2"], [1]),
            "refused": (400, "record(1); print(mine.flush(5)); print(len(waiting()))", ["False", "0"], [1]),
            "no thread": (204, "threading.Thread.start = lonely; record(1); print(*timed(mine.flush, 1))",
                          ["False True"], []),
            "host debugs": (204, "import http.client; http.client.HTTPConnection.debuglevel = 1"
                                 "\nrecord(1); print(mine.flush(5))", ["True"], [1]),
            "off": (204, "os.environ['DO_NOT_TRACK'] = '1'; record(1); print(mine.flush(), mine.close())",
                    ["True True"], []),
            "thrown away": (204, "older(); start = threading.Thread.start; threading.Thread.start = lonely"
                                 "\nrecord(1); os.unlink(outbox + '../config.json'); main(['enable'])"
                                 "\nthreading.Thread.start = start; record(2); print(mine.flush(5))",
                            ["False"], [2]),
            "not written": (204, "os.mkdir(outbox); os.chmod(outbox, 0); os.rmdir(outbox)"
                                 "\nopen(outbox[:-1], 'w').close(); record(1); print(mine.flush(1))",
                            ["False"], []),
            "not seen": (503, "record(1); look = os.listdir\ndef refused(*path): raise OSError(24, 'full')"
                              "\nos.listdir = refused; print(mine.flush(.3)); os.listdir = look"
                              "\nprint(mine.flush(.3), len(waiting()) + len(waiting('.claim')) > 0)",
                         ["False", "False True"], None),
        }
        servers = {name: self.server(case[0]) for name, case in cases.items()}
        ended = self.crew([partial(self.child, timed + case[1] + "\nending()",
                                   self.user(servers[name], **PATIENT)) for name, case in cases.items()], 4)
        for (name, (_, _, lines, numbers)), one in zip(cases.items(), ended):
            with self.subTest(name):
                self.assertEqual((one.code, one.lines[-len(lines):]), (0, lines), one.err)
                self.assertEqual("" if name == "thrown away" else one.err, "")
                if numbers is not None:
                    self.assertEqual(sorted(self.arrivals(servers[name].events)), numbers)
                self.assertLess(one.exit_seconds, 3)  # of 15

    def test_close_waits_for_a_request_that_carries_events_of_others(self) -> None:
        """Cut, it would be repeated: once its own events are gone, the second request has only older ones."""
        def answer(handler: Any) -> None:
            threading.Event().wait(.2 if len(server.requests) > 1 else 0)
            handler.send_response(204)
            handler.end_headers()

        server = self.server(answer)
        env = self.user(server)
        code = """
            older(*range(1, 41))
            record(50)
            mine.flush(5); time.sleep(.05); mine.close(5); os._exit(0)
        """
        self.assertEqual(self.run_child(code, env).code, 0)
        self.sweep(env)
        self.assertIn(50, self.arrivals(server.requests[0][2]["events"]))  # this run's go first
        self.assert_arrived([*range(1, 41), 50], server.events)

    def test_what_others_have_delivered_is_forgotten_in_time(self) -> None:
        self.assert_says(["True 1"], """
            start, threading.Thread.start = threading.Thread.start, lonely
            for number in range(1001):
                mine.track("init_executed")
                if number % 100 == 99:
                    for name in waiting(): os.unlink(outbox + name)
            threading.Thread.start = start
            print(mine.flush(15), len(mine._sender()._own) + 1)
        """, self.user(self.server()))

    def test_what_is_refused_is_not_said_to_be_delivered_by_who_looks_meanwhile(self) -> None:
        self.assert_says(["[False, False]"], """
            said, unlink, start, own = [], os.unlink, threading.Thread.start, Telemetry()
            threading.Thread.start = lonely
            record(1, own)
            threading.Thread.start = start
            def deleting(path):
                unlink(path)
                if path.endswith(".claim"): said.append(own.flush(0))
            os.unlink = deleting
            record(2)
            mine.flush(15)
            print(said)
        """, self.user(self.server(400)))

    def test_true_is_said_only_after_the_answer(self) -> None:
        """However the thread moves the event about meanwhile: claimed, given back, deleted."""
        log = self.home / "arrived"

        def answer(handler: Any) -> None:
            with log.open("a") as file:
                file.write("x" * len(server.requests[-1][2]["events"]))
            handler.send_response(204)
            handler.end_headers()

        server = self.server(answer)
        self.assert_says([], """
            for number in range(1, 81):
                record(number)
                if not mine.flush(9) or os.path.getsize(sys.argv[1]) != number: print("too early", number)
        """, self.user(server), log)


class BoundTests(DeliveryCase):
    """What waits is bounded: in number, in time, to its destination and its ID."""

    # A child whose clock is off by so many seconds.
    CLOCK = "import time\nshift, now, now_ns = {}, time.time, time.time_ns\n" \
            "time.time, time.time_ns = lambda: now() + shift, lambda: now_ns() + int(shift) * 10 ** 9\n"

    def store(self, env: Mapping[str, str], number: int, shift: float = 0) -> None:
        """An event of a run that is gone, recorded by a clock that is off by so many seconds."""
        child = self.start(self.CLOCK.format(shift) + PRELUDE + STORE, env, str(number), flags=BRUTAL)
        ended = Ended(child)
        self.assertEqual((ended.code, ended.err, ended.recorded), (0, "", [number]))

    def test_the_newest_500_survive(self) -> None:
        """Whoever recorded them: one process after another, or several at once, whose requests fail."""
        env, other = self.user(self.server()), self.user(self.server(silent), EXIT_WAIT=".3")
        for first, last in ((1, 301), (301, 621)):
            self.assertEqual(self.run_child(STORE, env, *range(first, last)).err, "")
        self.assertEqual(self.numbers(env), list(range(121, 621)))
        code = "objects = [mine, Telemetry()]\nfor number in range(180): record(number, objects[number % 2])"
        self.crew([partial(self.child, code, other) for _ in range(3)])
        self.assertEqual(len(self.files(other, "**/*.json")), 500)
        killed = self.user(self.server())
        code = "older(0)\nstate('failed', 500)\nfor number in range(620): record(number)\nos._exit(0)"
        self.assertEqual(self.run_child(code, killed).err, "")
        self.assertLess(len(self.files(killed, "**/*.json")), 550)  # one of fifty looks, and none at the end

    def test_28_days(self) -> None:
        """Nothing older is sent, nor waits for the end of a pause; a time stamp stays what it was."""
        day, server, began = 86400, self.server(500), time.time()
        env = self.user(server)
        for number, days in enumerate((3, -29, -27, -1), 1):
            self.store(env, number, days * day)
        self.assertEqual(self.run_child("record(5)\nmine.flush(9)", env).err, "")
        self.store(env, 6, -29 * day)
        self.assertEqual(self.run_child("record(7)", env).err, "")
        self.assertEqual(self.numbers(env), [3, 4, 5, 7, 1])
        server.answer = 204
        self.sweep(env)
        found = {number: stamps[-1] / 1e6 - began for number, stamps in self.arrivals(server.events).items()}
        self.assertEqual(sorted(found), [1, 3, 4, 5, 7])
        for number, days in ((1, 3), (3, -27), (4, -1)):
            self.assertAlmostEqual(found[number], days * day, delta=WAIT)

    def test_whatever_the_clock_says_nothing_is_stranded(self) -> None:
        """In 1960 and in 2999 events are sent, `disable` deletes them, and later runs get rid of them."""
        years, server = {1960: -66, 2999: 973}, self.server()
        rows = [(year, self.user(server), years[year] * 31557600) for year in years for _ in range(2)]
        code = PRELUDE + "older(1)\nrecord(2)\nprint(mine.flush(15))\n" \
            "until(lambda: threading.active_count() == 1)\nolder(3)"
        ended = self.crew([partial(self.start, self.CLOCK.format(shift) + code, env, flags=BRUTAL)
                           for _, env, shift in rows])
        for (year, env, _), one in zip(rows, ended):
            with self.subTest(year=year):
                self.assertEqual((one.err, one.lines, len(self.files(env))), ("", ["True"], 1))
        self.assertEqual(len(self.arrivals(server.events)[2]), 4)
        self.crew([partial(self.child, "main(['disable'])", env) for _, env, _ in rows[::2]])
        self.assertEqual([self.files(env, "*") for _, env, _ in rows[::2]], [[]] * 2)
        self.sweep(*[env for _, env, _ in rows[1::2]])

    def test_a_clock_that_is_set_by_an_hour_during_a_request_repeats_nothing(self) -> None:
        server = self.server(late(.1))
        envs = [self.user(server), self.user(server)]
        code = """
            clock, micros = time.time, time.time_ns
            def step():
                time.time, time.time_ns = lambda: clock() + by, lambda: micros() + by * 10 ** 9
                Telemetry().track("command_executed", generator_count=first + 2)
            first, by = int(sys.argv[1]), int(sys.argv[2])
            at_look_up(step)
            record(first + 1)
            time.sleep(.1)
            record(first + 3)
            print(mine.flush(15))
        """
        ended = self.together([self.child(code, env, *row) for env, row
                               in zip(envs, ((10, 3600), (20, -3600)))])
        self.assertEqual([(one.code, one.err, one.lines) for one in ended], [(0, "", ["True"])] * 2)
        self.sweep(*envs)
        self.assert_arrived([11, 12, 13, 21, 22, 23], server.events)

    def test_time_stamps_of_a_process_are_unique_on_a_coarse_clock_that_is_set(self) -> None:
        """As that of Windows, which ticks each 15.6 ms; and they stay near it."""
        self.assert_says(["3000 True"], """
            ticks, found = [1_700_000_000_000_000_000], []
            time.time_ns, time.time = lambda: ticks[0], lambda: ticks[0] / 1e9
            mine = Telemetry(captured=found)
            for number in range(3000):
                if number < 1500 and number % 100 == 0: ticks[0] += 15_625_000 // 8
                if number == 2000: ticks[0] -= 10 ** 9
                if number == 2500: ticks[0] += 3600 * 10 ** 9
                mine.track("init_executed")
            stamps = [event["timestamp_micros"] for event in found]
            print(len({*stamps}), abs(stamps[-1] - ticks[0] // 1000) < 10 ** 6)
        """, self.user())

    def test_claims_of_processes_that_are_gone_are_taken_over_after_ten_seconds(self) -> None:
        """By `flush` and by a command that has nothing to send yet; not sooner; not those of this process,
        whatever the clock of the file system says. What another process took over is not sent."""
        server = self.server(late(.1))
        code = """
            first, age, workers = int(sys.argv[1]), float(sys.argv[2]), []
            older(first + 1)
            os.rename(outbox + waiting()[0], outbox + waiting()[0] + ".01234567-1.claim")
            def be_old():
                for name in waiting(".claim"): os.utime(outbox + name, (time.time() - age,) * 2)
            def other():
                be_old()
                own = Telemetry()
                record(first + 2, own)
                workers.append(threading.Thread(target=own.flush, args=(9,)))
                workers[0].start()
            def give_back():
                for name in waiting(".claim"): os.rename(outbox + name, outbox + name[:48])
            be_old()
        """
        flush = "record(first + 3); print(mine.flush(15))"
        rows: List[Any] = [
            (15, flush, {1, 3}), (3, flush, {3}), (-86400 * 3650, flush, {1, 3}),  # of a clock that was ahead
            (15, "with mine.command('build'): print(until(lambda: not waiting('.claim')))", {1}),
            (60, f"at_look_up(other); {flush}; workers[0].join()", {1, 2, 3}),
            (15, f"at_look_up(give_back); {flush}", {1, 3})]
        envs = [self.user(server, **PATIENT) for _ in rows]
        ended = self.together([self.child(textwrap.dedent(code) + run, env, 10 * n, age)
                               for n, (env, (age, run, _)) in enumerate(zip(envs, rows), 1)])
        self.assertEqual([(one.code, one.err, one.lines) for one in ended], [(0, "", ["True"])] * len(rows))
        found = self.arrivals(server.events)
        for n, ((age, run, numbers), env) in enumerate(zip(rows, envs), 1):
            with self.subTest(age=age, run=run):
                self.assertEqual(({number % 10: len(stamps) for number, stamps in found.items()
                                   if number // 10 == n}, self.states(env)), (dict.fromkeys(numbers, 1), {}))

    def test_what_is_damaged_hostile_or_of_others_holds_nothing_up(self) -> None:
        """What a kill left half-written is deleted after ten seconds."""
        server = self.server()
        env = self.user(server)
        self.run_child(STORE, env, 1, 2, 3)
        first, second, third = self.files(env)
        folder = first.parent
        first.unlink()
        if POSIX:
            first.symlink_to("nowhere")
        second.write_text(second.read_text().replace('"generator_count": 2', '"generator_count": NaN'))
        (folder / ("\u00b2" * 16 + "-550e8400-01234567-01234567.json")).write_text("{}")
        left = folder / f"{first.name[:-13]}01234567.json.0123abcd-1.claim"  # as root's, by `sudo`
        left.write_text("{}")
        os.utime(str(left), (1, 1))
        written = [third.with_name(f"{third.name}.0123abcd-{seconds}-01234567.tmp") for seconds in (3, 15)]
        for path, seconds in zip(written, (3, 15)):
            path.write_text("x")
            os.utime(str(path), (time.time() - seconds,) * 2)
        self.assert_says(["True", "True"], """
            def refusing(call):
                def refused(path=".", *more):
                    if "01234567.json.0" in str(path): raise PermissionError(13, "permission denied", path)
                    return call(path, *more)
                return refused
            for name in ("open", "unlink", "rename", "replace"):
                setattr(os, name, refusing(getattr(os, name)))
            record(4)
            print(mine.flush(15))
            print(until(lambda: threading.active_count() == 1))
        """, env)
        self.assert_arrived([3, 4], server.events)
        self.assertEqual([path.exists() for path in written], [True, False])

    def test_nothing_of_the_host_is_kept_alive(self) -> None:
        """Neither an object that was closed, nor what a block raised."""
        self.assert_says(["True None"], """
            import gc, weakref
            class Big: pass
            def work():
                big = Big()
                alive.append(weakref.ref(big))
                with mine.command("build"): raise KeyError(big)
            found, alive = [], []
            for number in range(1, 6):
                telemetry = Telemetry()
                record(number, telemetry)
                telemetry.close(15)
                found.append(weakref.ref(telemetry))
            del telemetry
            import shutil
            shutil.rmtree(outbox)
            open(outbox[:-1], "w").close()  # no folder: to record is an error inside
            try: work()
            except KeyError: pass
            for _ in range(3): gc.collect()
            print(sum(ref() is not None for ref in found) <= 1, alive[0]())  # PyPy may still hold the last
        """, self.user(self.server()))

    def test_events_stay_with_their_destination_and_their_id(self) -> None:
        here, there = self.server(), self.server()
        env = self.user(here)
        elsewhere = {**env, "CODEGEN_TELEMETRY_ENDPOINT": there.url}
        for number, more in enumerate(({}, {"CODEGEN_TELEMETRY_ID": "G-OTHER"}), 1):
            self.run_child(STORE, {**env, **more}, number)
        for number, where in ((3, elsewhere), (4, env)):
            self.assert_says(["True"], f"record({number})\nprint(mine.flush(15))", where)
        self.assertEqual([sorted(self.arrivals(server.events)) for server in (here, there)], [[1, 4], [3]])
        self.assertTrue(all("G-TEST" in path for path, _, _ in here.requests))
        self.assertEqual(self.numbers(env), [2])
        self.run_child(STORE, env, 5)
        (Path(env["HOME"]) / self.folder.name / "config.json").unlink()
        self.assert_says(["True"], "record(6)\nprint(mine.flush(15))", env)
        self.assertEqual((self.numbers(env), sorted(self.arrivals(here.events))), ([], [1, 4, 6]))
        self.assertNotEqual(here.requests[-1][2]["client_id"], here.requests[0][2]["client_id"])

    def test_nothing_is_sent_after_disable(self) -> None:
        server = self.server()
        env = self.user(server)
        child = self.child("""
            for number in range(1, 10 ** 6):
                record(number)
                time.sleep(.002)
                if os.path.exists("stop"): break
        """, env)
        for _ in range(3):
            server.arrived.get(timeout=WAIT)
        self.assertEqual(self.run_child("sys.exit(main(['disable']))", env).code, 0)
        before = len(server.requests)
        threading.Event().wait(.3)  # nothing can be waited for: nothing is to happen
        (self.home / "stop").write_text("")
        ended = self.together([child])[0]
        self.assertEqual((ended.code, ended.err), (0, ""))
        self.assertLessEqual(len(server.requests), before + 1)  # one was on the wire
        # one may stay of a `track` that had looked before; `enable` throws it away
        self.assertLessEqual(len(self.files(env)), 1)
        self.assertEqual(self.run_child("sys.exit(main(['enable']))", env).code, 0)
        self.assertEqual(self.files(env), [])


@SIGNALS
class ScheduleTests(DeliveryCase):
    """In whatever order: an event waits or has arrived, and comes again only if its answer was lost."""

    RUNS = {"returns": "", "flushes": "mine.flush(9)", "exits": "os._exit(0)", "is killed": "time.sleep(10)",
            "is interrupted": "os.kill(os.getpid(), signal.SIGINT)", "works": "time.sleep(.15)\nos._exit(0)"}
    ANSWERS = (204, 204, 204, 500, 429, (301, MOVED), closing)

    def schedule(self, chance: random.Random, name: str) -> None:
        server = self.server()
        log: List[Any] = []  # (time stamps, taken for good, by a run whose end may have lost the answer)
        now = {"answer": 204, "brutal": False}

        def answer(handler: Any) -> None:
            chosen = now["answer"]
            stamps = [event["timestamp_micros"] for event in server.requests[-1][2]["events"]]
            log.append((stamps, chosen == 204, now["brutal"]))
            if callable(chosen):
                return chosen(handler)
            handler.send_response(chosen[0] if isinstance(chosen, tuple) else chosen)
            handler.end_headers()

        def uncertain() -> Any:
            return {stamp for stamps, good, brutal in log if good and brutal for stamp in stamps}

        server.answer = answer
        env = self.user(server, chance.random() < .5, **PATIENT)
        recorded: List[int] = []
        history = [f"TEST_SEED={SEED}, schedule {name}"]
        for step in range(1, 7):
            now["answer"], run = chance.choice(self.ANSWERS), chance.choice(list(self.RUNS))
            now["brutal"] = run not in ("returns", "flushes")
            history.append(f"{step}: answer {now['answer']}, {run}")
            child = self.child("for number in sys.argv[1:]: record(int(number))\n" + self.RUNS[run], env,
                               *range(step * 100, step * 100 + chance.randrange(1, 9)))
            if run == "is killed":
                threading.Event().wait(chance.uniform(.03, .25))
                child.kill()
            recorded += Ended(child).recorded
            kept = {path: json.loads(path.read_text())["event"]
                    for pattern in ("*.json", "*.claim") for path in self.files(env, pattern)}
            arrived = {stamp for stamps, good, _ in log if good for stamp in stamps}
            known = {event["params"].get("generator_count") for event in kept.values()}
            good = [event for event in server.events if event["timestamp_micros"] in arrived]
            self.assertLessEqual(set(recorded), known | set(self.arrivals(good)), history)
            waits = {event["timestamp_micros"] for event in kept.values()}
            if not now["brutal"]:
                self.assertLessEqual(waits & arrived, uncertain(), history)
            if chance.random() < .6:
                self.expire(env)
            if chance.random() < .5:
                self.age(env)
        now.update(answer=204, brutal=False)
        self.sweep(env)
        self.assertLessEqual(set(recorded), set(self.arrivals(server.events)), history)
        sure = [stamp for stamps, good, _ in log if good for stamp in stamps]
        self.assertLessEqual({stamp for stamp in sure if sure.count(stamp) > 1}, uncertain(), history)

    def test_generated_schedules(self) -> None:
        failures: List[BaseException] = []

        def work(name: str) -> None:
            try:
                self.schedule(random.Random(f"{SEED}-{name}"), name)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(str(n),), daemon=True) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * WAIT)
            self.assertFalse(thread.is_alive())
        for failure in failures:
            raise failure


class HostTests(DeliveryCase):
    """Hosts that are short of something, or unlike a plain script."""

    def test_interpreters_in_odd_modes(self) -> None:
        server = self.server()
        env = self.user(server, **PATIENT)
        modes: List[Any] = [
            (("-X", "dev", "-W", "error", "-bb"), {}), (("-OO", "-E", "-u"), {}),
            (("-S", "-s"), {"LC_ALL": "C", "LANG": "C"}),
            ((), {"PYTHONUTF8": "0", "LC_ALL": "POSIX"}),
            (("-X", "utf8"), {"PYTHONIOENCODING": "ascii"})]
        here = f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        program = here + PRELUDE + "record(int(sys.argv[1]))\nsys.exit(main(['status']))"
        starts = [partial(self.start, program, {**env, **more}, str(number), flags=flags)
                  for number, (flags, more) in enumerate(modes, 1)]
        for mode, ended in zip(modes, self.crew(starts)):
            with self.subTest(mode):
                self.assertEqual((ended.code, ended.err), (0, ""))
                self.assertTrue(len(ended.lines) > 5)
        self.assert_arrived(range(1, len(modes) + 1), server.events)

    def test_low_recursion_limits_and_event_loops(self) -> None:
        server = self.server()
        deep, loop = """
            def deep(frames):
                return record(1) if not frames else deep(frames - 1)
            sys.setrecursionlimit(120)
            try: deep(100)
            except RecursionError: pass  # the host's own
            sys.setrecursionlimit(1000)
            record(2)
        """, """
            import asyncio
            async def work(number):
                with mine.command("build", flags=["--watch"]) as command:
                    await asyncio.sleep(.01)
                    command.update(generator_count=number)
            async def main():
                await asyncio.gather(*(work(number) for number in range(3, 8)))
            asyncio.run(main())
        """
        for ended in self.crew([partial(self.child, code, self.user(server, **PATIENT), flags=STRICT)
                                for code in (deep, loop)]):
            self.assertEqual((ended.code, ended.err), (0, ""))
        self.assertLessEqual({*range(2, 8)}, {*self.arrivals(server.events)})

    @unittest.skipUnless(POSIX, "needs resource")
    def test_descriptors_exhausted(self) -> None:
        """Nothing is printed, the host goes on, and what came before and after arrives; also where the thread
        ends without a descriptor: threads of 3.8 load something then, or end the process."""
        server = self.server()
        env = self.user(server, **PATIENT)
        moments = ("record(10); mine.flush(9); exhaust()",  # network code loads, or complains
                   "at_look_up(exhaust); record(20); until(lambda: held)")
        for first, moment in zip((10, 20), moments):
            self.assert_says(["True True"], """
                import resource
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
                held = []
                def exhaust():
                    try:
                        while True: held.append(os.open(os.devnull, os.O_RDONLY))
                    except OSError: pass
                exec(sys.argv[2])
                mine.track("command_executed", generator_count=2)
                print(mine.flush(.2) in (True, False), mine.enabled in (True, False))
                until(lambda: threading.active_count() == 1)
                time.sleep(.05)
                for fd in held: os.close(fd)
                record(int(sys.argv[1]) + 3)
            """, env, first, moment)
            self.sweep(env)
        self.assert_arrived([10, 13, 20, 23], [event for event in server.events
                                               if event["params"]["generator_count"] >= 10])

    def test_clocks_of_the_host_may_be_frozen_and_mocked(self) -> None:
        """As freezegun does it, in every module but those of threads; or one, by a list of a single value."""
        servers = [self.server(), self.server(silent)]
        frozen = """
            import http.client, urllib.request, email.utils
            real, clocks = time.monotonic, ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns")
            def stand(value): return lambda: value
            standing = {getattr(time, name): stand(getattr(time, name)()) for name in clocks}
            for module in [*sys.modules.values()]:
                if getattr(module, "__name__", "threading") in ("threading", "queue", "__main__"): continue
                for name, value in [*vars(module).items()]:
                    if type(value) is type(real) and value in standing: setattr(module, name, standing[value])
            began = real()
            with mine.command("build"): record(1)
            print(mine.flush(.6), real() - began < 1.8)
        """
        mocked = """
            real, time.monotonic = time.monotonic, iter([5]).__next__
            with mine.command("build"): record(1)
            value, time.monotonic = time.monotonic(), real
            print(mine.flush(15), value)
        """
        rows: List[Any] = [(frozen, servers[0], {}, ["True True"]), (frozen, servers[1], {}, ["False True"]),
                           (mocked, self.server(), {}, ["True 5"]),
                           (mocked, None, {"DO_NOT_TRACK": "1"}, ["True 5"])]
        ended = self.together([self.child(code, self.user(server, **more)) for code, server, more, _ in rows])
        self.assertEqual([(one.code, one.err, one.lines) for one in ended], [(0, "", row[3]) for row in rows])
        self.assert_arrived([1], servers[0].events)


class PlatformTests(DeliveryCase):
    """What other systems do, simulated: refusals of Windows, no hard links."""

    REFUSE = """
        import encodings.idna, urllib.request  # before they see that this is no Windows
        os.name = "nt"
        if hasattr(os, "register_at_fork"): del os.register_at_fork
        left = {}
        def refusing(name, times, ending=""):
            key = name + ending
            call, left[key] = getattr(os, name), times
            def refused(path, *args, **params):
                path = str(path)
                if left[key] and ("config.json" in path or ".claim" in path) and path.endswith(ending):
                    left[key] -= 1
                    raise PermissionError(13, "it is being used by another process", path)
                return call(path, *args, **params)
            setattr(os, name, refused)
    """

    def test_windows_refuses_to_replace_what_is_open(self) -> None:
        """A while, or for good: then no decision is written, and what was delivered is deleted in place."""
        rows = {3: ["True [] [] 0 0 0"], 10 ** 6: ["True [] [] 1 1 1"]}
        servers = [self.server() for _ in rows]
        envs = [self.user(server) for server in servers]
        code = textwrap.dedent(self.REFUSE) + textwrap.dedent("""
            times = int(sys.argv[1])
            refusing("replace", times)
            if times > 3: refusing("rename", times)
            else: refusing("open", 3, ".json"), refusing("open", 3, ".lock")
            record(1)
            print(mine.flush(15), waiting(), waiting(".claim"), main(["disable"]), main(["enable"]),
                  int(any(left.values())))
        """)
        ended = self.crew([partial(self.child, code, env, times) for times, env in zip(rows, envs)])
        for (times, lines), one, env, server in zip(rows.items(), ended, envs, servers):
            with self.subTest(times=times):
                self.assertEqual((one.code, one.lines[-1:]), (0, lines), one.err)
                self.assertEqual("CODEGEN_TELEMETRY_DISABLED=1" in one.err, times > 3)
                self.assert_arrived([1], server.events)
                config = Path(env["HOME"]) / self.folder.name / "config.json"
                self.assertIs(json.loads(config.read_text())["telemetry"]["enabled"], True)

    def test_no_hard_links(self) -> None:
        refused = "def link(*args): raise OSError(95, 'not supported')\nos.link = link"
        self.config.unlink()
        for code in ("del os.link", refused):
            env = self.user(self.server())
            for _ in range(2):
                self.assert_says(["True"], code + "\nrecord(1)\nprint(mine.flush(15))", env)
            config = Path(env["HOME"]) / self.folder.name / "config.json"
            self.assertIn("anonymousId", json.loads(config.read_text())["telemetry"])


TOOL = '''
"""A generator of payloads, as its author would write it."""
import argparse
import json
import os
import sys
import time

from mytool import _telemetry as usage

ERRORS = usage.CODEGEN.events["error_occurred"]["error_type"]
COMMANDS = ("generate", "init")
PRODUCT = usage.Product(
    name="My Tool", command="mytool", docs_url="https://mytool.example/telemetry", api_secret="own",
    endpoint=os.environ.get("COLLECTOR", "http://127.0.0.1:9/"), project_files=("mytool.json",),
    events={**usage.CODEGEN.events,
            "error_occurred": {"command": COMMANDS, "error_type": ERRORS},
            "command_executed": {"command": COMMANDS, "flags": ["header", "type", "generators"],
                                 "input_source": ("remote_url", "local_relative", "local_absolute"),
                                 "input_type": ("asyncapi", "openapi"),
                                 "generators": ["payloads", "channels"], "generator_count": "count",
                                 "duration": "milliseconds", "success": "flag"}})


def generate(arguments, telemetry, running):
    running.update(input_source=usage.input_source(arguments.input), input_type=arguments.type,
                   generators=arguments.generators)
    with open(arguments.input, encoding="utf-8") as file:
        document = json.load(file)
    for generator in arguments.generators:
        began = time.monotonic()
        options = {"includeValidation": True, "serializationType": "json", "header": arguments.header}
        telemetry.track("generator_used", generator_type=generator, input_type=arguments.type,
                        input_source=usage.input_source(arguments.input), language="typescript", success=True,
                        options=options, duration=(time.monotonic() - began) * 1000)
    running.update(generator_count=len(arguments.generators))
    print(json.dumps({"generated": len(document)}))


def main():
    parser = argparse.ArgumentParser("mytool")
    parser.add_argument("--no-telemetry", action="store_const", const=False, dest="project")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("generate")
    command.add_argument("input")
    command.add_argument("--type", default="asyncapi")
    command.add_argument("--header", default="")
    command.add_argument("--generators", nargs="*", default=["payloads", "channels"])
    commands.add_parser("init")
    commands.add_parser("telemetry").add_argument("rest", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.command == "telemetry":
        return usage.main(arguments.rest, product=PRODUCT, project=arguments.project)
    telemetry = usage.Telemetry(PRODUCT, version="0.57.0", project=arguments.project, exit_wait=5)
    flags = [word[2:].partition("=")[0] for word in sys.argv[2:] if word.startswith("--")]
    with telemetry.command(arguments.command, flags) as running:
        try:
            if arguments.command == "init":
                telemetry.track("init_executed", config_type="esm", input_type="asyncapi", completed=True,
                                generators=["payloads", "parameters", "channels"], language="typescript")
            else:
                generate(arguments, telemetry, running)
        except (OSError, ValueError) as error:
            running.fail(error)
            print("mytool:", error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
'''
# The same as `python -m mytool`, from code.
RUN_TOOL = "import runpy; runpy.run_module('mytool', run_name='__main__', alter_sys=True)"


class MainJobTests(Case):
    """A tool with the file beside its own modules: its events arrive, its user is told and obeyed."""

    def setUp(self) -> None:
        super().setUp()
        package = self.home / "mytool"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(TOOL)
        shutil.copy(str(MODULE), str(package / "_telemetry.py"))
        (self.home / "secret-project.json").write_text("{}")
        self.collector = self.server()
        # The user names the destination, and sees events at once; or else the tool's author does.
        self.by_user = {"MYTOOL_TELEMETRY_ENDPOINT": self.collector.url, "MYTOOL_TELEMETRY_ID": "own",
                        "MYTOOL_TELEMETRY_API_SECRET": "s3cret", "PYTHONPATH": str(self.home)}
        self.by_author = {"COLLECTOR": self.collector.url + "?of=author", "MYTOOL_TELEMETRY_ENDPOINT": ""}

    def tools(self, *commands: Any) -> List[subprocess.CompletedProcess[str]]:
        """Run the tool with each of these command lines, at once; one may end with a mapping of variables."""
        children = []
        for command in commands:
            variables = command[-1] if isinstance(command[-1], dict) else {}
            arguments = command[:-1] if variables else command
            env = self.environment(**{**self.by_user, **variables})
            children.append(self.start(RUN_TOOL, env, *arguments))
        ended = [(child, *child.communicate(timeout=WAIT)) for child in children]
        return [subprocess.CompletedProcess([], child.returncode, out, err) for child, out, err in ended]

    def tool(self, *command: Any) -> subprocess.CompletedProcess[str]:
        return self.tools(command)[0]

    def own_waiting(self) -> int:
        """How many of the tool's events wait."""
        return len(list((self.home / ".mytool-telemetry" / "outbox").glob("*.json")))

    def test_events_arrive_with_the_documented_shapes(self) -> None:
        first = self.tool("generate", "./secret-project.json", "--header", "/home/ada/x", "--type=openapi")
        self.assertEqual((first.returncode, first.stdout, first.stderr), (0, '{"generated": 0}\n', ""))
        self.assertEqual(self.tool("init").stderr, "")
        failed = self.tool("generate", "/nowhere/secret.json")
        self.assertEqual((failed.returncode, failed.stderr.count("\n")), (1, 1))
        names = [event["name"] for event in self.collector.events]
        self.assertEqual(sorted(names), sorted(["generator_used"] * 2 + ["command_executed"] * 3
                                               + ["init_executed", "error_occurred"]))
        by_name = {event["name"]: event["params"] for event in reversed(self.collector.events)}
        common = {"cli_version": "0.57.0", "os": sys.platform, "ci": False, "agent": "none",
                  "python_version": "%d.%d.%d" % sys.version_info[:3]}
        expected = {
            "command_executed": dict(command="generate", flags="header,type", input_source="local_relative",
                                     input_type="openapi", generators="payloads,channels", generator_count=2,
                                     success=True),
            "generator_used": dict(generator_type="payloads", input_type="openapi", language="typescript",
                                   input_source="local_relative", options_includeValidation=True,
                                   options_serializationType="json", options_header="custom", success=True),
            "init_executed": dict(config_type="esm", input_type="asyncapi", language="typescript",
                                  generators="payloads,parameters,channels", completed=True),
            "error_occurred": dict(command="generate", error_type="file_not_found")}
        for name, params in expected.items():
            for key, value in {**params, **common}.items():
                self.assertEqual(by_name[name][key], value, f"{name}.{key}")
        path, headers, document = self.collector.requests[0]
        self.assertEqual(path, "/collect?measurement_id=own&api_secret=s3cret")
        self.assertEqual(headers["User-Agent"], "mytool/0.57.0")
        clients = {document["client_id"] for _, _, document in self.collector.requests}
        self.assertEqual(clients, {json.loads((self.home / ".mytool-telemetry/config.json").read_text())
                                   ["telemetry"]["anonymousId"]})
        self.assertNotIn("secret-project", json.dumps(self.collector.requests))
        self.assertNotIn("/home/ada", json.dumps(self.collector.requests))

    @unittest.skipUnless(POSIX, "needs a pseudo-terminal")
    def test_first_run_tells_and_keeps_its_events_which_a_later_run_delivers(self) -> None:
        silent = self.tool("init", self.by_author)
        self.assertEqual((silent.returncode, silent.stdout, silent.stderr), (0, "", ""))
        self.assertFalse((self.home / ".mytool-telemetry").exists(), "nobody was told")
        env = self.environment(**{**self.by_user, **self.by_author})
        told = self.on_terminal(RUN_TOOL, env, "init")
        self.assertEqual((told.returncode, told.stdout), (0, ""))
        self.assertEqual(told.stderr.count("My Tool collects anonymous usage data"), 1)
        self.assertIn("To disable: mytool telemetry disable", told.stderr)
        again = self.on_terminal(RUN_TOOL, env, "init")
        self.assertEqual((again.returncode, again.stderr), (0, ""))
        self.assertEqual(([], 4), (self.collector.events, self.own_waiting()))
        self.assertEqual(self.tool("telemetry", "enable", self.by_author).returncode, 0)
        self.tool("generate", "secret-project.json", self.by_author)
        self.assertEqual(7, len(self.collector.events))
        paths = {path for path, _, _ in self.collector.requests}
        self.assertEqual({"/collect?of=author&api_secret=own"}, paths)
        requests = len(self.collector.requests)
        self.tool("init", self.by_author)  # in a rest
        self.assertEqual((requests, 2), (len(self.collector.requests), self.own_waiting()))

    def test_user_who_says_no_is_obeyed(self) -> None:
        self.assertEqual(self.tool("init").returncode, 0)
        arrived = len(self.collector.events)
        self.assertEqual(2, arrived)
        self.assertEqual(self.tool("telemetry", "disable").returncode, 0)
        config = str(self.home / ".mytool-telemetry/config.json")
        *runs, status = self.tools(["init"], ["generate", "secret-project.json"], ["generate", "missing"],
                                   ["telemetry", "status", "--json"])
        self.assertEqual([(0, 0), (0, 0), (1, 1)], [(run.returncode, run.stderr.count("\n")) for run in runs])
        told = json.loads(status.stdout)
        self.assertEqual((False, config), (told["enabled"], told["reason"]))
        self.assertEqual(len(self.collector.events), arrived)
        self.assertEqual(self.tool("telemetry", "enable").returncode, 0)
        *runs, status = self.tools(["init", {"DO_NOT_TRACK": "1"}], ["--no-telemetry", "init"],
                                   ["init", {**self.by_author, "PYTEST_VERSION": "8"}],
                                   ["--no-telemetry", "telemetry", "status", "--json"])
        (self.home / "mytool.json").write_text('{"telemetry": {"enabled": false}}')
        runs.append(self.tool("init"))
        self.assertEqual([(0, "", "")] * 4, [(run.returncode, run.stdout, run.stderr) for run in runs])
        told = json.loads(status.stdout)
        self.assertEqual((False, "project"), (told["enabled"], told["reason"]))
        self.assertEqual(len(self.collector.events), arrived)
        (self.home / "mytool.json").unlink()
        self.tool("init")
        self.assertEqual(len(self.collector.events), arrived + 2)


class DocumentTests(BasicCase):
    """README: its commands run and print what it shows, its tables are those of the code."""

    README = HERE / "README.md"
    maxDiff = None
    # Blocks in these languages, and commands for the shell that need these programs, are run by
    # `.ci/operator/check`, because a Python brings none of them along: nginx, ClickHouse's engine, DuckDB.
    LANGUAGES_OF_OPERATORS = frozenset(("sql", "nginx"))
    PROGRAMS_OF_OPERATORS = ("clickhouse-client", "spark-submit", "duckdb ")
    LANGUAGES = frozenset(("sh", "python", "text", "http", "markdown"))  # run or compared here

    def setUp(self) -> None:
        super().setUp()
        self.text = self.README.read_text(encoding="utf-8")
        self.assertNotIn("\t", self.text)

    # --- reading the document ---

    def blocks(self, text: Optional[str] = None) -> List[Any]:
        """(language, content, text between it and the block before) of each fenced block, in order."""
        text = self.text if text is None else text
        pattern = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
        found, end = [], 0
        for match in pattern.finditer(text):
            found.append((match.group(1), match.group(2), text[end:match.start()]))
            end = match.end()
        fences = len(re.findall("^```", text, re.MULTILINE))
        self.assertEqual(2 * len(found), fences, "a block has no language")
        return found

    def prose(self) -> str:
        """The text without its blocks."""
        return re.sub(r"^```(\w+)\n(.*?)^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    def table(self, *header: str) -> List[List[str]]:
        """The rows of all tables with this header, their cells without backquotes."""
        line = "| " + " | ".join(header) + " |\n"
        text = self.text.replace("`", "")
        self.assertTrue(line in text, f"there is no table {line}")
        rows = []
        for part in text.split(line)[1:]:
            for row in part.splitlines()[1:]:
                if not row.startswith("|"):
                    break
                cells = [cell.strip() for cell in row.strip("|").split(" | ")]
                self.assertEqual(len(header), len(cells), row)
                rows.append(cells)
        return rows

    def section(self, title: str) -> str:
        """What stands below a heading, up to the next one of its level or above."""
        found = re.search(rf"^(##+) {re.escape(title)}\n", self.text, re.MULTILINE)
        if found is None:
            self.fail(f"there is no section {title}")
        return re.split(rf"^#{{2,{len(found.group(1))}}} ", self.text[found.end():], maxsplit=1,
                        flags=re.MULTILINE)[0]

    def words_between(self, text: str, begin: str, end: str) -> List[str]:
        """What stands in backquotes between two pieces of a text, however its lines are broken."""
        flat = " ".join(text.split())
        self.assertIn(begin, flat)
        return re.findall("`([^`]+)`", flat.split(begin, 1)[1].split(end, 1)[0])

    # --- running it ---

    def workspace(self) -> Path:
        """A folder with copies of the project's files, as if it had just been fetched."""
        place = self.home / "project"
        place.mkdir()
        for path in (MODULE, self.README, Path(__file__).resolve()):
            shutil.copy(str(path), str(place / path.name))
        tools = self.home / "bin"
        tools.mkdir()
        for name in ("python", "python3"):
            (tools / name).write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
            (tools / name).chmod(0o755)
        return place

    def shell(self, place: Path, script: str, **variables: str) -> str:
        """What a reader sees who pastes this into a shell; it must succeed."""
        env = self.environment(**{"PYTHONIOENCODING": "utf-8", "TMPDIR": str(self.home), **variables})
        env["PATH"] = f"{self.home / 'bin'}{os.pathsep}{env.get('PATH', '')}"
        del env["PYTHONPATH"]
        done = subprocess.run(["sh", "-e", "-c", script], cwd=str(place), env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WAIT, check=False)
        output = done.stdout.decode("utf-8")
        self.assertEqual(0, done.returncode, f"{script}\n{output}")
        return output

    def comparable(self, text: str) -> str:
        """Output without what differs from run to run and between machines, and all blanks alike."""
        for path in (str(self.home / "project"), str(self.home)):
            text = text.replace(path, "/home/ada")
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
        text = re.sub(r'("os": )"\w+"', r"\1OS", text)
        text = re.sub(r'(Content-Length: |"\w*(?:_micros|_id|_msec|duration)": )\d+', r"\1N", text)
        text = re.sub(r'("python_version": )"[\d.]+"', r"\1N", text)
        return " ".join(text.split())

    def is_available(self, program: str) -> bool:
        """Whether the packages that this program imports are here; only click and typer may be missing."""
        for package in ("click", "typer"):
            if f"import {package}\n" in program:
                command = [sys.executable, "-c", f"import {package}"]
                return not subprocess.call(command, stderr=subprocess.DEVNULL)
        return True

    def is_receivers(self, content: str) -> bool:
        """Whether a block is for `test_receiver_works`."""
        return ":8000" in content or "8000)" in content or "events.jsonl" in content

    def is_operators(self, language: str, content: str) -> bool:
        """Whether `.ci/operator/check` runs a block: it takes those of one part, by their language."""
        is_theirs = language in self.LANGUAGES_OF_OPERATORS or language == "sh" and any(
            program in content for program in self.PROGRAMS_OF_OPERATORS)
        if is_theirs:
            self.assertIn(content, self.section("For operators"), "nothing runs this")
        return is_theirs

    @unittest.skipUnless(POSIX and shutil.which("sh"), "needs a shell")
    def test_commands_run_and_print_what_is_shown(self) -> None:
        place = self.workspace()
        blocks = self.blocks()
        ran = compared = 0
        for index, (language, content, _) in enumerate(blocks):
            if self.is_operators(language, content) or self.is_receivers(content):
                continue
            self.assertIn(language, self.LANGUAGES)
            with self.subTest(block=content.splitlines()[0], number=index):
                for folder in (self.folder, self.home / ".mytool-telemetry"):  # each is somebody's first run
                    shutil.rmtree(str(folder), ignore_errors=True)
                if language == "sh":
                    output = self.shell(place, self.without_recursion(content))
                    ran += 1
                    following = blocks[index + 1] if index + 1 < len(blocks) else ("", "", " ")
                    if following[0] == "text" and not following[2].strip():
                        compared += 1
                        self.assertEqual(self.comparable(following[1]), self.comparable(output))
        shells = [content for language, content, _ in blocks if language == "sh"]
        self.assertEqual(ran, len([content for content in shells if not (
            self.is_operators("sh", content) or self.is_receivers(content))]))
        self.assertGreaterEqual(len(shells), 6)
        shown = sum(language == "text" for language, _, _ in blocks)
        self.assertEqual(shown - 1, compared, "all but the notice are the output of the command above them")

    def without_recursion(self, script: str) -> str:
        """The command that runs the tests only looks for them here: it is what runs us."""
        loads = ('python3 -c "import unittest; '
                 'raise SystemExit(unittest.defaultTestLoader.discover(\'.\').countTestCases() == 0)"')
        return loads if script.strip() == "python3 -m unittest" else script

    def program(self, place: Path, content: str) -> Path:
        """Write a program to the file that its first line names."""
        first = content.partition("\n")[0]
        self.assertRegex(first, r"^# [\w/]+\.py$")
        path = place / first[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        compile(content, str(path), "exec")
        return path

    def programs(self, place: Path) -> Dict[str, str]:
        """Write all programs, but those of a receiver, and the tool of the first screen: contents by name."""
        self.shell(place, self.blocks()[0][1])
        found = {}
        for language, content, _ in self.blocks():
            if language == "python" and not self.is_receivers(content):
                found[str(self.program(place, content).relative_to(place))] = content
        return found

    @unittest.skipUnless(POSIX and shutil.which("sh"), "needs a shell")
    def test_programs_of_tool_authors_record_what_was_typed_and_mount_the_command_line(self) -> None:
        place = self.workspace()
        found = self.programs(place)
        tools = [name for name, content in found.items() if "telemetry_main" in content]
        self.assertEqual(["mytool/single.py", "mytool/with_argparse.py", "mytool/with_click.py",
                          "mytool/with_typer.py"], sorted(tools))
        self.assertEqual({"mytool/usage.py", "test_usage.py"}, set(found) - set(tools))
        from concurrent.futures import ThreadPoolExecutor
        names = [name[7:-3] for name in tools if self.is_available(found[name])]
        with ThreadPoolExecutor(len(tools)) as pool:
            list(pool.map(partial(self.tool_of_the_document, place), names))

    def tool_of_the_document(self, place: Path, name: str) -> None:
        """Use a tool: what is typed on the left is recorded as on the right, and no more of it."""
        run, is_single, home = f"python3 -m mytool.{name}", name == "single", str(self.new_home(name))
        debug = {"MYTOOL_TELEMETRY_DEBUG": "1", "HOME": home}
        rows = [("", "none")] if is_single else [
            ("build", "none"), ("build --output /home/ada/x", "output"),
            ("--verbose build --watch --output=/home/ada/x", "verbose,watch,output")]
        for arguments, flags in rows:
            output = self.shell(place, f"{run} {arguments}", **debug)
            params = json.loads(output[output.index('{"client_id"'):])["events"][0]["params"]
            self.assertEqual(("check" if is_single else "build", set(flags.split(",")), True), (
                params["command"], set(params["flags"].split(",")), params["success"]), (name, arguments))
            self.assertNotRegex(output, r"dropped|\bada\b")
        mounted = "--telemetry" if is_single else "--verbose telemetry"
        output = self.shell(place, f"{run} {mounted} status", HOME=home)
        self.assertIn("Telemetry is on: on by default", output)
        self.assertIn(f"mytool {mounted.replace('--verbose ', '')} disable\n", output)
        for words in () if is_single else ("--help", "nonsense || test $? = 2"):
            self.assertIn("usage: mytool telemetry", self.shell(place, f"{run} telemetry {words}", HOME=home))
        self.shell(place, f"{run} {mounted} disable", HOME=home)
        self.assertIn("[telemetry] telemetry is off: ", self.shell(place, f"{run} {rows[0][0]}", **debug))

    @unittest.skipUnless(POSIX and shutil.which("sh"), "needs a shell")
    def test_tool_without_subcommands_has_settings_and_categories_of_its_own(self) -> None:
        place = self.workspace()
        found = self.programs(place)
        tool, debug = "python3 -m mytool.single", {"MYTOOL_TELEMETRY_DEBUG": "1"}
        failed = self.shell(place, f"{tool} /no/such || test $? = 1", **debug)
        self.assertIn("mytool: /no/such can't be read", failed)
        self.assertIn('"error_type": "parse_error"', failed)
        self.assertIn("telemetry is off: project", self.shell(place, f"{tool} --no-telemetry", **debug))
        (place / "pyproject.toml").write_text("[tool.mytool.telemetry]\nenabled = false\n")
        output = self.shell(place, f"{tool} --telemetry status")
        is_read = sys.version_info >= (3, 11)  # which brings tomllib
        self.assertIn("Telemetry is off: project" if is_read else "Telemetry is on", output)
        tests = re.findall(r"^def (test_\w+)", found["test_usage.py"], re.MULTILINE)
        self.assertEqual(1, len(tests))
        begin = re.findall("`(import os; .*?)`", " ".join(self.section("In your tests").split()))
        self.assertEqual(1, len(begin))
        program = f"{begin[0]}\nimport test_usage\ntest_usage.{tests[0]}()\n"
        for end, line in (("", ""), ("from mytool import single; single.main([])\n",
                                     "[telemetry] telemetry is off: MYTOOL_TELEMETRY_DISABLED\n")):
            (place / "program.py").write_text(program + end)
            self.assertEqual("mytool: no-such-file can't be read\n" + line,
                             self.shell(place, "python3 program.py", **debug))

    @unittest.skipUnless(POSIX and shutil.which("sh"), "needs a shell")
    def test_first_command_leaves_nothing_in_the_home_folder_and_asks_for_nothing_but_python(self) -> None:
        place = self.workspace()
        language, first, above = self.blocks()[0]
        self.assertEqual("sh", language)
        self.assertLess(len((above + first).splitlines()), 50, "it is on the first screen")
        before = set(self.home.iterdir())
        self.shell(place, first)
        self.assertEqual([], [path for path in set(self.home.iterdir()) - before if any(path.iterdir())])

    @unittest.skipUnless(POSIX and shutil.which("sh"), "needs a shell")
    def test_first_tool_sends_what_it_declares_and_nothing_else_and_obeys(self) -> None:
        place, collector = self.workspace(), self.server()
        self.shell(place, self.blocks()[0][1])
        named = {"MYTOOL_TELEMETRY_ENDPOINT": collector.url}
        program = place / "mytool" / "__main__.py"
        source = program.read_text(encoding="utf-8")
        patient = source.replace('version="1.0.0"', 'version="1.0.0", exit_wait=9')  # on a busy machine, too
        self.assertNotEqual(patient, source)
        program.write_text(patient, encoding="utf-8")
        for command in ("build --watch", "check"):
            self.assertEqual("", self.shell(place, f"python3 -m mytool {command}", **named))
        declared = {"command", "flags", "duration", "success"}
        events = collector.events
        self.assertEqual([("command_executed", "build", "watch"), ("command_executed", "check", "none")],
                         [(event["name"], event["params"]["command"], event["params"]["flags"])
                          for event in events])
        self.assertEqual([declared | COMMON] * 2, [set(event["params"]) for event in events])
        status = self.shell(place, "python3 -m mytool telemetry status")
        for line in ("endpoint: https://t.mytool.example/v1", "command (choice: build, check)",
                     "flags (several: watch)"):
            self.assertIn(line, status)
        self.shell(place, "python3 -m mytool telemetry disable")
        self.shell(place, "python3 -m mytool build", **named)
        self.assertIn("Telemetry is off", self.shell(place, "python3 -m mytool telemetry status"))
        self.assertEqual(2, len(collector.events))

    @unittest.skipUnless(POSIX and shutil.which("sh"), "needs a shell")
    def test_receiver_works(self) -> None:
        place = self.workspace()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        parts = [content.replace("8000", port) for language, content, _ in self.blocks()
                 if language in ("sh", "python") and self.is_receivers(content)]
        receiver, send, read = parts
        patient = send.replace("version='0.57.0'", "version='0.57.0', exit_wait=9")  # on a busy machine, too
        self.assertNotEqual(patient, send)
        ready = "import socketserver\nrun = socketserver.BaseServer.serve_forever\n" \
                "def tell(self):\n    print('ready', flush=True)\n    run(self)\n" \
                "socketserver.BaseServer.serve_forever = tell\n"
        child = self.start(ready + receiver, self.environment(), cwd=str(place))
        self.assertEqual("ready\n", child.stdout.readline() if child.stdout else "")
        for _ in range(2):
            self.shell(place, patient, CODEGEN_TELEMETRY_DISABLED="")
        events = place / "events.jsonl"
        self.eventually(lambda: events.exists() and events.read_text().count("\n") == 2)
        events.write_text(events.read_text() * 2)  # as if two answers had been lost
        (place / "events.py").write_text(read)
        self.assertEqual(2, self.shell(place, "python3 events.py").count("init_executed {'completed': True"))

    # --- tables ---

    def test_event_table_is_that_of_the_code(self) -> None:
        def shown(kind: Any) -> str:
            if isinstance(kind, Mapping):
                declared = [f"{option}: {', '.join(words)}" for option, words in kind.items()]
                return "; ".join(["options", *declared])
            return kind if isinstance(kind, str) else "choice: " + ", ".join(kind)

        expected = [[event, name, shown(kind)] for event, params in CODEGEN.events.items()
                    for name, kind in params.items()]
        self.assertEqual(expected, self.table("event", "parameter", "kind"))

    def test_kinds_are_those_of_the_code_and_declared_as_shown(self) -> None:
        rows = self.table("kind", "declared as", "what it lets through")
        self.assertEqual(dict(codegen_telemetry.KINDS), {kind: text for kind, _, text in rows})
        self.assertEqual(list(codegen_telemetry.KINDS), [kind for kind, _, _ in rows])
        product = Product(command="mytool", events={
            "tried": {kind: ast.literal_eval(declared) for kind, declared, _ in rows}})
        code = "import sys, codegen_telemetry as t\n" \
               "t.main(['status', '--json'], product=t.Product(command='mytool', events=eval(sys.argv[1])))"
        events = {"tried": {kind: ast.literal_eval(declared) for kind, declared, _ in rows}}
        done, _ = self.run_code(code, self.environment(), repr(events))
        self.assertEqual({kind: kind for kind, _, _ in rows},
                         {kind: re.split("[:;]", text)[0]
                          for kind, text in json.loads(done.stdout)["collected"]["tried"].items()})
        self.assertEqual(set(events["tried"]), set(product.events["tried"]))

    def test_what_kinds_let_through_is_what_the_text_says(self) -> None:
        captured: List[Dict[str, Any]] = []
        events = {"tried": {"word": "word", "words": "words", "list": ["watch", "force"],
                            "options": {"format": ("json",)}}}
        telemetry = Telemetry(Product(command="mytool", events=events), captured=captured)
        telemetry.track("tried", word="hunter2", words=["--watch=all"], list=["watch", "--watch", "watch"],
                        options={"format": "json", "other": "free text"})
        for word in ("a" * 33, "a1234", "A", "/etc", "two words"):
            telemetry.track("tried", word=word)
        telemetry.track("tried", list=["watch"] * 3, words=["word" + "abcdefghij"[n] * 20 for n in range(10)])
        found = [event["params"] for event in captured]
        self.assertEqual(("hunter2", "watch", "watch", "json", "custom"), (
            found[0]["word"], found[0]["words"], found[0]["list"], found[0]["options_format"],
            found[0]["options_other"]))
        self.assertEqual({"other"}, {params["word"] for params in found[1:6]})
        self.assertEqual("watch", found[6]["list"])
        self.assertLessEqual(len(found[6]["words"]), 100)
        text = " ".join(self.section("Events and kinds").split())
        for said in ("`hunter2` passes", "32 characters and 3 digits", "cut at 100 characters",
                     "`--watch` counts as `watch`", "`options_format`"):
            self.assertIn(said, text)

    def test_names_in_the_reading_guide_exist(self) -> None:
        places = (codegen_telemetry, Telemetry, codegen_telemetry._Sender, codegen_telemetry._Outbox)
        rows = self.table("question", "section", "read")
        self.assertEqual(8, len(rows))
        section = self.section("Reading the code")
        self.assertIn("Eight questions", section)
        names = re.findall("`(\\w+)`", section.split("| --- |", 1)[1])
        self.assertGreater(len(names), 20)
        source = MODULE.read_text(encoding="utf-8")
        length = int(re.search("about ([0-9]+) lines", section).group(1))
        self.assertAlmostEqual(len(source.splitlines()), length, delta=50)
        attributes = set(re.findall(r"self\.(\w+)\b.* = ", source)) | set(re.findall("environ", source))
        for name in set(names) - {"Product"}:
            self.assertTrue(any(hasattr(place, name) for place in places) or name in attributes, name)
        banners = re.findall("^# === (.*?):", source, re.MULTILINE)
        for _, sections, _ in rows:
            self.assertLessEqual(set(sections.split(", ")) - {"each"}, set(banners))

    def test_ci_variables_are_those_of_the_code(self) -> None:
        self.assertEqual(list(codegen_telemetry.CI_VARIABLES), self.words_between(
            self.section("CI and agents"), "`CI=false` beats them all:", "."))

    def test_agents_are_those_of_the_code(self) -> None:
        flat = " ".join(self.section("CI and agents").split())
        listed = flat.split("never a variable's value:", 1)[1].split(".", 1)[0]
        self.assertEqual([[agent, *variables] for agent, variables in codegen_telemetry.AGENTS.items()],
                         [re.findall("`(\\w+)`", part) for part in listed.split(";")])

    def test_project_files_are_those_of_the_code(self) -> None:
        self.assertEqual(CODEGEN.project_files, tuple(self.words_between(
            self.section("Turning it off"), "It is looked for in", ". JSON is parsed")))

    def test_what_is_never_collected_is_that_of_the_code(self) -> None:
        flat = " ".join(self.section("What is sent").split())
        listed = flat.split("Never collected: ", 1)[1].partition(". ")[0]
        self.assertEqual(list(codegen_telemetry.NEVER_COLLECTED), listed.split("; "))

    def test_common_parameters_are_those_of_every_event(self) -> None:
        captured: List[Dict[str, Any]] = []
        Telemetry(captured=captured).track("init_executed")
        self.assertEqual(list(captured[0]["params"]),
                         [name for name, _ in self.table("parameter", "what it is")])

    def test_variables_are_those_that_status_knows(self) -> None:
        names = [name for name, _ in self.table("variable", "effect")]
        suffixes = ("DISABLED", "DEBUG", "ENDPOINT", "ID", "API_SECRET")
        self.assertEqual(["DO_NOT_TRACK"] + [f"{CODEGEN.env_prefix}_{suffix}" for suffix in suffixes]
                         + ["PYTEST_VERSION"], names)
        code = "import codegen_telemetry; codegen_telemetry.main(['status', '--json'])"
        for variables in (names[:-1], names[-1:], names):
            done, _ = self.run_code(code, self.environment(**dict.fromkeys(variables, "1")))
            self.assertEqual(set(variables), set(json.loads(done.stdout)["environment"]))

    def test_each_way_to_turn_it_off_does(self) -> None:
        rows = self.table("how", "holds for", "who is named by status")
        code = "from codegen_telemetry import Telemetry; print(Telemetry().enabled, Telemetry().reason)"
        named_endpoint = {"CODEGEN_TELEMETRY_ENDPOINT": "http://127.0.0.1:9/"}  # so that no notice is needed
        done, _ = self.run_code(code, self.environment(**named_endpoint))
        self.assertEqual("True on by default\n", done.stdout)
        for how, _, named in rows[1:]:
            with self.subTest(how):
                document, in_file, file = how.partition(" in ")
                variables = {} if in_file else dict([how.split("=")])
                if in_file:
                    (self.home / file).write_text(document)
                done, _ = self.run_code(code, self.environment(**named_endpoint, **variables))
                self.assertEqual(f"False {named}\n", done.stdout)
                if in_file:
                    (self.home / file).unlink()
        self.assertIn("codegen telemetry disable", rows[0][0])
        disable = "import codegen_telemetry; codegen_telemetry.main(['disable'])"
        self.run_code(disable, self.environment())
        done, _ = self.run_code(code, self.environment(**named_endpoint))
        self.assertEqual(f"False {self.config}\n", done.stdout)

    def days(self) -> int:
        """How long an event waits."""
        return round(codegen_telemetry._MAX_AGE / 86400)

    def test_states_and_bounds_are_those_of_the_code(self) -> None:
        states = [state for state, *_ in self.table("state", "begins after", "lasts", "in it")]
        self.assertEqual(states, list(dict.fromkeys(word for word, _ in codegen_telemetry._REASONS.values())))
        text = " ".join(self.section("When it leaves").split())
        minute, longest = codegen_telemetry._MINUTE, codegen_telemetry._LAST_PAUSE
        self.assertEqual((60, 600, 24 * 3600), (minute, codegen_telemetry._FIRST_PAUSE, longest))
        for said in ("10 minutes, doubling to 24 hours", f"unless {codegen_telemetry._MAX_BATCH} events wait",
                     f"{codegen_telemetry._MAX_WAITING} events, {self.days()} days"):
            self.assertIn(said, text)

    def test_answers_do_to_events_what_the_table_says(self) -> None:
        rows = self.table("answer", "events", "then")
        kept = next(row for row in rows if row[1] == "kept" and "5xx" in row[0])
        later = {int(status) for status in re.findall(r"\b[0-9]{3}\b", kept[0])} | {301, 308, 500, 503}
        expected = {**dict.fromkeys((200, 204), "delivered, deleted"),
                    **dict.fromkeys(sorted(set(range(400, 432)) - later), "dropped"),
                    **dict.fromkeys(sorted(later), "kept")}
        collector = self.server(lambda handler: (handler.send_response(int(handler.path.split("/")[-1])),
                                                 handler.end_headers()))
        code = """
            import json, sys
            from codegen_telemetry import Product, Telemetry
            for status in json.loads(sys.argv[2]):
                product = Product(command=f"tool{status}", endpoint=f"{sys.argv[1]}/{status}")
                telemetry = Telemetry(product)
                telemetry.track("init_executed")
                telemetry.flush(5)
            """
        env = self.environment(CI="1")
        done, _ = self.run_code(code, env, f"http://127.0.0.1:{collector.port}", json.dumps(list(expected)))
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        self.assertEqual(len(expected), len(collector.requests))
        for status, fate in expected.items():
            outbox = self.home / f".tool{status}-telemetry" / "outbox"
            waits, pauses = bool(list(outbox.glob("*.json"))), bool(list(outbox.glob("*.state")))
            self.assertEqual((status, fate == "kept", fate != "delivered, deleted"), (status, waits, pauses))
        self.assertEqual({row[1]: row[2] for row in rows},
                         {"delivered, deleted": "rest", "dropped": "pause", "kept": "pause"})

    def test_request_is_the_documented_one(self) -> None:
        shown = next(content for language, content, _ in self.blocks() if language == "http")
        collector = self.server()
        track = "from codegen_telemetry import Telemetry; Telemetry(exit_wait=5).track('init_executed')"
        self.run_code(track, self.environment(collector))
        path, headers, document = collector.requests[0]
        self.assertEqual(re.findall(r"[?&](\w+)=", shown), re.findall(r"[?&](\w+)=", path))
        text = " ".join(self.section("For operators").split())
        more = self.words_between(text, "With `Host`", "all headers")
        self.assertEqual(set(headers), set(re.findall(r"^([\w-]+): ", shown, re.MULTILINE)) | {"Host", *more})
        body = json.loads(shown[shown.index("\n\n"):].replace("{...}", "{}").replace(", ...]", "]"))
        self.assertEqual((list(body), list(body["events"][0])), (list(document), list(document["events"][0])))

    def test_config_keys_are_those_that_are_written_and_read(self) -> None:
        self.run_code("import codegen_telemetry; codegen_telemetry.main(['enable'])", self.environment())

        def keys(document: Mapping[str, Any], prefix: str = "") -> List[str]:
            return [found for key, value in document.items() for found in (
                keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key])]

        written = keys(json.loads(self.config.read_text()))
        rows = self.table("key", "what it is")
        self.assertEqual(written, [key for key, text in rows if "never written" not in text])
        self.assertEqual([f"telemetry.{key}" for key in ("endpoint", "trackingId", "apiSecret")],
                         [key for key, text in rows if "never written" in text])

    def test_files_beside_it_are_those_that_are_made(self) -> None:
        names = [name for row in self.table("beside it", "what it is") for name in row[0].split(", ")]
        patterns = [re.sub(r"<\w+>", "[^/]+", re.escape(name).replace(r"\*", "[^/]+")) for name in names]
        collector = self.server(503)
        self.write_config(endpoint=collector.url)
        code = "from codegen_telemetry import Telemetry; Telemetry(exit_wait=5).track('init_executed')"
        self.run_code(code, self.environment())
        self.assertEqual(1, len(collector.requests))
        found = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
        self.assertEqual(3, len(found))
        for name in found - {"config.json"}:
            self.assertTrue(any(re.fullmatch(pattern, name) for pattern in patterns), name)

    def test_metrics_and_dimensions_are_the_parameters(self) -> None:
        params = {name: kind for params in CODEGEN.events.values() for name, kind in params.items()
                  if not isinstance(kind, Mapping)}
        numbers = {name for name, kind in params.items() if kind in ("count", "milliseconds")}
        common = COMMON - {"session_id", "engagement_time_msec"}
        section = self.section("Google Analytics 4")
        self.assertEqual(numbers, set(self.words_between(section, "these are the metrics:", ". These")))
        self.assertEqual(sorted(set(params) - numbers | common), sorted(self.words_between(
            section, "These are the dimensions:", ", and one for each option")))

    def test_fields_of_a_product_are_those_of_its_docstring(self) -> None:
        rows = self.table("field", "what it is", "default")
        self.assertEqual(sorted(Product._fields), sorted(field.strip() for row in rows
                                                           for field in row[0].split(",")))
        if Product.__doc__:
            for line in re.findall(r"^ *(\|.*\|)$", Product.__doc__, re.MULTILINE):
                self.assertTrue(line + "\n" in self.text, line)

    def test_api_table_has_all_public_names_with_their_arguments(self) -> None:
        import inspect
        command = type(Telemetry(captured=[]).command("generate"))
        rows = [name for name, _ in self.table("name", "what it is")]
        names = {name.partition("(")[0] for name in rows}
        methods = {f"{owner}.{name}" for owner, kind in (("Telemetry", Telemetry), ("command", command))
                   for name in vars(kind) if not name.startswith("_")}
        self.assertEqual(set(codegen_telemetry.__all__) - {"__version__"} | methods, names)
        places = {"Telemetry": Telemetry, "command": command}
        for row in rows:
            name, mark, arguments = row.partition("(")
            owner, _, method = name.rpartition(".")
            called: Any = getattr(places.get(owner, codegen_telemetry), method)
            if mark:
                listed = [part.partition("=")[0].strip("* ")
                          for part in arguments.rpartition(")")[0].split(", ")]
                taken = [part for part in inspect.signature(called).parameters if part != "self"]
                self.assertEqual(taken, [part for part in listed if part], name)

    @unittest.skipUnless(POSIX, "needs a pseudo-terminal")
    def test_notice_is_the_box(self) -> None:
        code = "import codegen_telemetry; codegen_telemetry.Telemetry().track('init_executed')"
        done = self.on_terminal(code, self.environment(PYTHONIOENCODING="utf-8"))
        shown = self.section("First-run notice").split("```text\n", 1)[1].split("```", 1)[0]
        self.assertEqual(shown, done.stderr)

    def test_figures_of_the_first_screen_are_measured_ones(self) -> None:
        first_screen = self.text.split("- **Never sends**", 1)[0]
        figures = re.findall(r"[0-9][0-9.,]* (?:ms|µs|s)\b", first_screen.split("- **Costs**", 1)[1])
        self.assertGreaterEqual(len(figures), 6)
        rows = self.table("what", "measured", "floor", "ratio or difference", "bound")
        self.assertGreater(len(rows), 10)
        measured = " ".join(" ".join(row) for row in rows)
        for figure in figures:
            self.assertIn(figure, measured)

    # --- the rest ---

    def test_links_and_names_of_files_lead_somewhere(self) -> None:
        for name in re.findall(r"`((?:codegen_telemetry|test_codegen_telemetry|README)\.\w+)`", self.text):
            self.assertTrue((HERE / name).exists(), name)
        if (HERE / ".ci").is_dir():
            for name in set(re.findall(r"\.ci/[\w/.-]*\w", self.text)):
                needed = os.F_OK if "." in name[1:] else os.X_OK  # a file with an ending, or a program
                self.assertTrue(os.access(str(HERE / name), needed), name)
            files = re.findall(r"`([\w-]+\.(?:sql|conf|py))`", self.section("For operators"))
            self.assertGreater(len(files), 8)
            for name in set(files):
                self.assertTrue((HERE / ".ci" / "operator" / name).exists(), name)
        headings = re.findall("^##+ (.*)$", self.prose(), re.MULTILINE)
        anchors = [re.sub("[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        self.assertEqual(len(set(anchors)), len(anchors))
        linked = re.findall(r"\]\(#([^)]*)\)", self.text)
        self.assertLessEqual(set(linked), set(anchors))
        readers = [heading for heading in headings if heading.startswith("For ")]
        self.assertEqual(["For tool authors", "For end users", "For reviewers", "For operators"], readers)
        self.assertLessEqual({reader.lower().replace(" ", "-") for reader in readers}, set(linked))

    def test_lines_are_short_but_those_of_tables(self) -> None:
        long = [line for line in self.text.splitlines() if len(line) > 115 and not line.startswith("|")]
        self.assertEqual([], long)

    def test_privacy_page_says_what_the_law_calls_it_and_leaves_blanks(self) -> None:
        page = next(content for language, content, _ in self.blocks() if language == "markdown")
        self.assertIn("pseudonymous", page)
        self.assertNotIn("anonymous", page.replace("pseudonymous", ""))
        for blank in ("Controller: [", "Contact: [", "Legal basis: [", "Kept for: ["):
            self.assertIn(blank, page)
        for said in ("mytool telemetry disable", "MYTOOL_TELEMETRY_DISABLED=1", "DO_NOT_TRACK=1",
                     "the ID that", "~/.mytool-telemetry/config.json",
                     f"{self.days()} days at most"):
            self.assertIn(said, page)

    def test_version_and_licence_agree(self) -> None:
        self.assertIn(f"\n- {codegen_telemetry.__version__}", self.section("Changes"))
        source = MODULE.read_text(encoding="utf-8")
        self.assertIn("SPDX-License-Identifier: 0BSD", "".join(source.splitlines()[:3]))
        self.assertIn("0BSD", self.section("Development"))
        project = HERE / "pyproject.toml"
        if project.exists():
            text = project.read_text(encoding="utf-8")
            self.assertIn('license = "0BSD"', text)
            self.assertIn('dynamic = ["version", "description"]', text)
            self.assertNotRegex(text, r"(?m)^dependencies")


if __name__ == "__main__":
    unittest.main()
