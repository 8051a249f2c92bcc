"""The documentation says what the code does: generated pages are current, examples parse, links and commands exist."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from clinome.cli import app
from clinome.core import errors

ROOT = Path(__file__).parents[2]
COMMANDS = {command.name: command.callback for command in app.registered_commands}
WRITTEN = sorted(path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")] if path.name != "CHANGELOG.md")
STABLE = {  # scripts of others rely on these (issue 2)
    "gwas": "--genotypes --phenotypes --covariates --traits --out --export --missing-genotypes",
    "simulate": "--participants --variants --seed --out",
    "run": "--out",
}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """Load scripts/generate_docs, which has no suffix."""
    loader = SourceFileLoader("generate_docs", str(ROOT / "scripts" / "generate_docs"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def test_generated_pages_are_what_the_code_says(generator: ModuleType) -> None:
    assert generator.drift() == [], "run: .venv/bin/python scripts/generate_docs"


def test_a_page_that_drifted_is_noticed(generator: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "reference", tmp_path / "reference")
    page = tmp_path / "reference" / "commands.md"
    page.write_text(page.read_text().replace("--genotypes", "--genotype"))
    (tmp_path / "reference" / "tables.md").unlink()
    (tmp_path / "reference" / "made_up.md").touch()
    assert generator.drift(tmp_path / "reference") == ["commands.md", "made_up.md", "tables.md"]


def words_fit(generator: ModuleType, words: list[str]) -> None:
    """Assert that ``words`` after ``clinome`` call a command with options that it has, and with all that it needs."""
    words = [word for word in words if word not in ("--quiet",)]
    assert words, "clinome alone is no command"
    if words == ["--help"] or words == ["--version"]:
        return
    assert words[0] in COMMANDS, f"there is no command {words[0]!r}"
    known = generator.options(COMMANDS[words[0]])
    if "--help" in words:
        return
    given = [word.split("=")[0] for word in words[1:] if word.startswith("--")]
    for option in given:
        assert any(option in one.names for one in known), f"clinome {words[0]} has no option {option}"
    for one in known:
        if one.required and one.names:
            assert set(one.names) & set(given), f"clinome {words[0]} needs {one.shown}"
    flags = {name for one in known if one.flag for name in one.names}
    free = [
        word
        for i, word in enumerate(words[1:], 1)
        if not word.startswith("-") and (words[i - 1] in flags or not words[i - 1].startswith("-"))
    ]
    assert len(free) <= sum(not one.names for one in known), f"clinome {words[0]} does not take {' '.join(free)}"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_shows_an_example_that_fits_it(generator: ModuleType, name: str) -> None:
    said = inspect.cleandoc(COMMANDS[name].__doc__ or "")
    example = re.search(r"Example:\s+clinome (.+(?:\\\n.+)*)", said)
    assert example, f"the help of clinome {name} shows no example"
    words = shlex.split(example[1].replace("\\\n", " "))
    assert words[0] == name
    words_fit(generator, words)
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert shown.exit_code == 0
    assert "Example:" in shown.output
    for one in generator.options(COMMANDS[name]):
        assert one.help, f"{one.shown} of clinome {name} is not explained"
        for option in one.names:
            assert option in shown.output


@pytest.mark.parametrize("name", sorted(STABLE))
def test_options_that_scripts_of_others_rely_on(generator: ModuleType, name: str) -> None:
    known = {option for one in generator.options(COMMANDS[name]) for option in one.names}
    assert set(STABLE[name].split()) <= known
    if name == "gwas":
        kinds = {one.names[0]: one.kind for one in generator.options(COMMANDS[name])}
        assert kinds["--export"] == "`gwas-ssf` or `regenie` or `plink2`"
        assert kinds["--missing-genotypes"] == "`mean` or `drop`"


def test_the_error_tree_in_words_is_the_one_in_code() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    classes = [one.__name__ for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.ClinomeError)]
    assert ["ClinomeError", *drawn] == classes


def fenced(path: Path) -> list[tuple[str, str, int]]:
    """Return (language, text, line) of each code block."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [(block[1], block[2], text[: block.start()].count("\n") + 1) for block in found]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_code_blocks_call_what_exists(generator: ModuleType, path: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for language, text, line in fenced(path):
        if language == "python":
            compile(text, f"{path.name}, line {line}", "exec")
            for statement in re.findall(r"^(?:from clinome\S* import .+|import clinome\S*)$", text, flags=re.MULTILINE):
                exec(statement, {})
        if language in ("", "sh", "bash", "console"):
            for command in text.replace("\\\n", " ").splitlines():
                if any(word in command for word in ("[--", "…", "STUDY.toml", "DIR")):
                    continue  # a usage pattern, not a command
                words = shlex.split(command, comments=True)
                words = words[1:] if words[:1] == ["$"] else words
                if words[:1] and Path(words[0]).name == "clinome":
                    words_fit(generator, words[1:])
                elif words[:1] == ["make"]:
                    assert {word for word in words[1:] if "=" not in word} <= targets, f"{path.name}, line {line}: {command}"
                elif words[:1] and words[0].startswith("scripts/"):
                    assert (ROOT / words[0]).exists(), f"{path.name}, line {line}: {command}"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not re.match(r"\w+:", target):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


class Fetched(HTMLParser):
    """Collects what a browser fetches by itself: scripts, styles, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.addresses.append(given.get("href") or "")


@pytest.mark.slow
def test_the_pages_build_without_a_warning_and_need_no_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {page.name for page in pages} >= {"commands.html", "tables.html", "models.html", "errors.html"}
    for page in pages:
        fetched = Fetched()
        fetched.feed(page.read_text(encoding="utf-8"))
        assert fetched.addresses, page
        for address in fetched.addresses:
            assert not re.match(r"(https?:)?//", address), f"{page.name} fetches {address}"
