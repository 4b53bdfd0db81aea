"""The fenced blocks of a document, and a user who types them in, one after the other."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_ANY_FENCE = re.compile(r"^```\S.*$", re.MULTILINE)
# What is exported in one block is there in the next, as in one terminal.
_SHELL = "set -euo pipefail\n[ -f .exported ] && . ./.exported\n{text}\nexport -p > .exported\n"


class Snippet(NamedTuple):
    """`line` counts from 1; `title` is the file that the text is to be written to."""

    language: str
    title: str | None
    text: str
    line: int


def snippets(document: Path) -> list[Snippet]:
    """All of them; raises when there is a fence that this does not understand."""
    content = document.read_text(encoding="utf-8")
    found = [
        Snippet(m["language"], m["title"], m["text"], content.count("\n", 0, m.start()) + 1)
        for m in _FENCE.finditer(content)
    ]
    assert len(found) == len(_ANY_FENCE.findall(content)), f"{document}: a fence without language"
    return found


class Reader:
    """Types blocks in, in `folder`. `replaced`: the few words that are others on this machine."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], replaced: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._replaced = replaced

    def does(self, snippet: Snippet) -> str:
        """What it prints; a block that fails raises AssertionError with its output."""
        text = snippet.text
        for old, new in self._replaced.items():
            text = text.replace(old, new)
        if snippet.title is not None:
            (self._folder / snippet.title).write_text(text, encoding="utf-8")
            return ""
        if snippet.language == "bash":
            return self._run(["bash", "-c", _SHELL.replace("{text}", text)], snippet)
        (self._folder / "snippet.py").write_text(text, encoding="utf-8")
        shell = ". ./.exported && python -W error snippet.py"
        return self._run(["bash", "-c", shell], snippet)

    def _run(self, command: list[str], snippet: Snippet) -> str:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        told = f"line {snippet.line}:\n{snippet.text}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, told
        assert '"error": {' not in done.stdout, told  # curl does not fail on an error body
        assert '"error":{' not in done.stdout, told
        assert "urn:dspex-ray:" not in done.stdout, told
        return done.stdout
