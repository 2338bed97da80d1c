"""Plain English from the standard library's own documentation, read from source and never imported."""

from __future__ import annotations

import ast
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

MINIMUM_PARAGRAPH = 40  # characters; shorter ones are headings and fragments
MINIMUM_PROSE_SHARE = 0.93  # of letters, spaces and the marks of running text; below it, it is code

# The built-in model is pre-trained on these (about three quarters of the text), ...
PRETRAINING_MODULES = (
    "abc", "argparse", "ast", "asyncio.base_events", "asyncio.events", "asyncio.locks", "asyncio.queues",
    "asyncio.streams", "asyncio.tasks", "base64", "bdb", "bisect", "calendar", "cmd", "code", "codecs",
    "collections", "concurrent.futures._base", "concurrent.futures.process", "configparser", "contextlib",
    "copy", "csv", "datetime", "decimal", "difflib", "dis", "doctest", "email.charset", "email.header",
    "email.headerregistry", "email.message", "email.policy", "email.utils", "enum", "filecmp",
    "fileinput", "fnmatch", "fractions", "ftplib", "functools", "gettext", "glob", "gzip", "hashlib",
    "heapq", "hmac", "html.parser", "http.client", "http.cookiejar", "http.cookies", "http.server",
    "imaplib", "importlib._bootstrap", "importlib.abc", "importlib.resources", "importlib.util",
    "inspect", "io", "ipaddress", "json", "json.decoder", "json.encoder", "keyword", "linecache",
    "locale", "logging", "logging.config", "logging.handlers", "mailbox", "mimetypes",
    "multiprocessing.managers", "multiprocessing.pool", "netrc", "numbers", "operator", "optparse", "os",
    "pathlib", "pdb", "pickle", "pickletools", "pkgutil", "platform", "plistlib", "poplib", "posixpath",
    "pprint", "profile", "pstats", "pydoc", "queue", "random", "re", "reprlib", "sched", "secrets",
    "selectors", "shelve", "shlex", "shutil", "smtplib", "socket", "socketserver", "ssl", "statistics",
    "string", "subprocess", "symtable", "tarfile", "tempfile", "textwrap", "threading", "timeit",
    "tokenize", "trace", "traceback", "tracemalloc", "types", "typing", "unittest.async_case",
    "unittest.case", "unittest.loader", "unittest.mock", "unittest.result", "urllib.parse",
    "urllib.request", "urllib.robotparser", "uuid", "warnings", "wave", "weakref", "webbrowser",
    "wsgiref.handlers", "wsgiref.simple_server", "xml.dom.minidom", "xml.etree.ElementTree",
    "xml.sax.handler", "xmlrpc.client", "xmlrpc.server", "zipapp", "zipfile", "zipimport",
)  # fmt: skip
# ... and `builtin:docstrings` fine-tunes it on those, which it has never read.
TUNING_MODULES = (
    "__future__", "_collections_abc", "_osx_support", "_pydecimal", "_pyio", "_strptime",
    "asyncio.futures", "asyncio.protocols", "asyncio.runners", "asyncio.selector_events",
    "asyncio.sslproto", "asyncio.transports", "asyncio.unix_events", "bz2", "codeop", "ctypes._aix",
    "dataclasses", "dbm", "email._header_value_parser", "email._parseaddr", "email._policybase",
    "email.base64mime", "email.feedparser", "email.generator", "email.parser", "email.quoprimime",
    "encodings", "genericpath", "getopt", "getpass", "graphlib", "importlib._bootstrap_external",
    "importlib.metadata", "importlib.resources.abc", "lzma", "modulefinder", "multiprocessing.connection",
    "multiprocessing.shared_memory", "ntpath", "py_compile", "pyclbr", "quopri", "runpy", "site",
    "sysconfig", "tabnanny", "turtle", "unittest", "unittest.suite", "venv", "wsgiref.headers",
    "wsgiref.util", "xml.dom.expatbuilder", "xml.sax._exceptions", "xml.sax.saxutils",
    "xml.sax.xmlreader",
)  # fmt: skip
# Perplexity is measured on those, which nothing here trains on.
PERPLEXITY_MODULES = (
    "_compression", "_markupbase", "_weakrefset", "asyncio.base_subprocess", "asyncio.proactor_events",
    "asyncio.staggered", "asyncio.subprocess", "asyncio.taskgroups", "asyncio.threads", "asyncio.timeouts",
    "asyncio.windows_events", "cgi", "cgitb", "chunk", "colorsys", "compileall",
    "concurrent.futures.thread", "copyreg", "crypt", "ctypes", "email.contentmanager", "email.errors",
    "email.iterators", "email.mime.audio", "email.mime.base", "email.mime.image", "email.mime.multipart",
    "email.mime.text", "ensurepip", "html", "importlib._abc", "importlib.readers",
    "importlib.resources._common", "importlib.simple", "json.tool", "mailcap",
    "multiprocessing.context", "multiprocessing.heap", "multiprocessing.process",
    "multiprocessing.queues", "multiprocessing.resource_tracker", "multiprocessing.synchronize",
    "multiprocessing.util", "nntplib", "opcode", "pipes", "pty", "rlcompleter", "sndhdr",
    "smtpd", "stringprep", "sunau", "telnetlib", "tkinter", "tkinter.simpledialog", "tkinter.ttk",
    "tomllib._parser", "tty", "unittest.main", "unittest.runner", "unittest.signals", "unittest.util",
    "uu", "wsgiref.validate", "wsgiref.types", "xdrlib", "xml.dom", "xml.dom.minicompat",
    "xml.dom.pulldom", "xml.dom.xmlbuilder", "xml.etree.ElementPath", "zoneinfo", "zoneinfo._common",
)  # fmt: skip
ONE_PARSER = threading.Lock()  # `ast.parse` in two threads at once can fail in Python 3.11 (gh-106905)


def docstring_paragraphs(modules: Sequence[str]) -> list[str]:
    """Paragraphs of running English in the docstrings of `modules`, each once, in order of appearance.

    A module that this Python does not have is passed over. Safe to call from several threads.
    """
    with ONE_PARSER:
        return list(cached_paragraphs(tuple(modules)))


@cache
def cached_paragraphs(modules: tuple[str, ...]) -> tuple[str, ...]:
    """`docstring_paragraphs`, read once per process."""
    sources = (source_of(module) for module in modules)
    texts = (path.read_text(encoding="utf-8") for path in sources if path is not None)
    return tuple(dict.fromkeys(filter(is_prose, (found for text in texts for found in paragraphs(text)))))


def source_of(module: str) -> Path | None:
    """The source file of a standard-library module, or None where this Python has none."""
    base = Path(sysconfig.get_path("stdlib"), *module.split("."))
    candidates = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def paragraphs(source: str) -> Iterator[str]:
    """Paragraphs of every docstring in `source`, each on one line."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented):
            for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                yield " ".join(paragraph.split())


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph is a run of whole sentences rather than code, a table or a heading."""
    if len(paragraph) < MINIMUM_PARAGRAPH or not paragraph[0].isupper() or not paragraph.endswith("."):
        return False
    running = sum(character.isalpha() or character in " ,.'-" for character in paragraph)
    return ">>>" not in paragraph and running >= MINIMUM_PROSE_SHARE * len(paragraph)
