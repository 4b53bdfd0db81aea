"""Writes dspex_ray/client/sync from dspex_ray/client/aio; with --check, says whether it is fresh.

docs/decisions/0007-generated-sync-client.md says why, and why with the tokens of the stdlib.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = ROOT / "dspex_ray" / "client" / "aio"
GENERATED = ROOT / "dspex_ray" / "client" / "sync"

NAMES = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "aclosing": "closing",
    "aio": "sync",
    "aiter_bytes": "iter_bytes",
    "aread": "read",
    "asyncio": "time",  # for its sleep, all that the client takes of it
}
# Sorted imports, and `yield from` where an `async for` could not be one. The setting: what is
# generated for the first time does not exist yet, and would not count as of this project.
CHECK = ["check", "--select", "I,UP028", "--fix", "--unsafe-fixes"]
CHECK += ["--config", 'lint.isort.known-first-party = ["dspex_ray"]']

# Inside docstrings and comments, where these are words of a sentence or of an example.
PHRASES = {
    "asynchronous": "synchronous",
    "async with": "with",
    "async for": "for",
    "await ": "",
}
HEADER = "# Generated from ../aio/{name} by scripts/generate_sync_client.py: edit that one.\n"


def synchronous(source: str) -> str:
    """The same code without async and await; not formatted yet."""
    lines = source.splitlines(keepends=True)
    for (row, start), end, replacement in reversed(list(_edits(source))):
        line = lines[row - 1]
        lines[row - 1] = line[:start] + replacement + line[end:]
    return "".join(lines)


def _edits(source: str) -> Iterator[tuple[tuple[int, int], int, str]]:
    """((row, column), end column, replacement); a token over several lines is cut by line."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for token, following in pairwise(tokens):
        if token.type == tokenize.NAME and token.string in {"async", "await"}:
            yield token.start, following.start[1], ""
        elif token.type == tokenize.NAME:
            name = _name(token.string)
            if name != token.string:
                yield token.start, token.end[1], name
        elif token.type in {tokenize.STRING, tokenize.COMMENT}:
            for offset, line in enumerate(token.string.split("\n")):
                column = token.start[1] if offset == 0 else 0
                yield (token.start[0] + offset, column), column + len(line), _prose(line)


def _name(name: str) -> str:
    return NAMES.get(name) or re.sub(r"^Async(?=[A-Z])", "", name)


def _prose(text: str) -> str:
    for phrase, replacement in PHRASES.items():
        text = text.replace(phrase, replacement)
    return re.sub(r"\w+", lambda word: _name(word[0]), text)


def generate() -> dict[Path, str]:
    """Each generated file's path and text, formatted."""
    found = {}
    for written in sorted(WRITTEN.glob("*.py")):
        text = synchronous(written.read_text(encoding="utf-8"))
        if written.name == "__init__.py":
            text = '"""The synchronous client: generated from dspex_ray/client/aio."""\n'
        target = GENERATED / written.name
        found[target] = _formatted(HEADER.format(name=written.name) + text, target)
    return found


def _formatted(text: str, path: Path) -> str:
    for command in (CHECK, ["format"]):
        text = subprocess.run(  # noqa: S603 - ruff, with arguments of ours
            [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", path, "-"],
            cwd=ROOT,
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


def main(arguments: list[str]) -> int:
    fresh = generate()
    there = {path: path.read_text(encoding="utf-8") for path in GENERATED.glob("*.py")}
    if arguments == ["--check"]:
        stale = sorted(path.name for path in {*fresh, *there} if fresh.get(path) != there.get(path))
        if stale:
            print(f"stale: {', '.join(stale)}; run {Path(__file__).name}", file=sys.stderr)  # noqa: T201
        return bool(stale)
    GENERATED.mkdir(exist_ok=True)
    for path in {*there} - {*fresh}:
        path.unlink()
    for path, text in fresh.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
