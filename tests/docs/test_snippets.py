"""Every snippet of the documents runs, in order, against one running platform."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from dspex_ray.cli.instance import Instance
from tests.docs.snippets import ROOT, Reader, Snippet, snippets
from tests.e2e.platform import Platform

README = ROOT / "README.md"
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
RUN = {"bash", "python"}
# `console` shows the two commands that .ci/run calls; `text` and `mermaid` are not typed in.
KNOWN = RUN | {"yaml", "json", "console", "text", "mermaid"}


def typed(document: Path) -> list[Snippet]:
    """What a reader types in, or writes to a file."""
    return [s for s in snippets(document) if s.language in RUN or s.title]


# What the documents take from the README's tour.
TOUR = """
managed_by: tour
models:
  - name: mine
    provider: openai_compatible
    model_name: "qwen3:4b"
    base_url: {url}
    approved: true
programs:
  - name: answerer
    source: {{signature: "question -> answer", module: {{type: predict}}}}
    labels: [production]
    assignments: [{{model: mine}}]
"""


@pytest.mark.parametrize("document", [README, *DOCUMENTS], ids=lambda path: path.name)
def test_languages_and_values(document: Path) -> None:
    for snippet in snippets(document):
        assert snippet.language in KNOWN, f"{document}:{snippet.line}"
        if snippet.language == "yaml":
            yaml.safe_load(snippet.text)
        if snippet.language == "json":
            json.loads(snippet.text)


def test_ci_runs_the_two_commands() -> None:
    [console] = [s.text for s in snippets(README) if s.language == "console"]
    told = [line.removeprefix("$ ").split("#")[0].strip() for line in console.splitlines()]
    assert told == ["make demo", "make test"]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert all(command in script for command in told)


@pytest.fixture
def reader(platform: Platform, tmp_path: Path) -> Reader:
    """In a folder with the repository's environment, where other ports and paths hold."""
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    (tmp_path / ".exported").write_text(
        f"export DSPEX_URL={platform.url} DSPEX_API_KEY={platform.key}\n"
    )
    replaced = {
        "dspex up --port 8000": f"dspex up --port {platform.port} --config {platform.config}",
        "http://127.0.0.1:8000": platform.url,
        "http://127.0.0.1:8265": platform.state.dashboard_url,
        "/var/tmp/dspex-ray/": f"{platform.home}/",
        "http://127.0.0.1:11434/v1": platform.simulator.url,
    }
    return Reader(tmp_path, platform.environment, replaced)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_readme(platform: Platform, reader: Reader) -> None:
    printed = [reader.does(snippet) for snippet in typed(README)]
    together = "\n".join(printed)
    assert '"outputs":{"urgent":true,"reply":"yes"}' in together  # curl
    assert "True yes" in together  # the SDK
    assert "echo: Count to three." in together  # a stream of the OpenAI SDK
    assert "write.reply" not in together
    assert "└── write  ok" in together  # the call tree
    assert Instance(platform.home).status().phase == "stopped"  # the tour's last command
    platform.up()
    with platform.client() as client:
        found = client.programs.predict("answerer", {"question": "Still there?"})
    assert found.outputs == {"answer": "yes"}


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if typed(path)], ids=lambda path: path.name
)
def test_document(document: Path, platform: Platform, reader: Reader) -> None:
    platform.apply(TOUR.format(url=platform.simulator.url))
    printed = "".join(reader.does(snippet) for snippet in typed(document))
    assert printed
