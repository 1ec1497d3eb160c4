"""What the documents say is there."""

import configparser
import pathlib
import re
import subprocess

import pytest
from harness import run

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"(?:`|^    )make ([a-z]+)", document.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document.name}: make {target}"


def test_files_that_are_named_exist():
    for document in DOCUMENTS:
        for name in re.findall(r"`((?:Sources|Tests|scripts|docs|Benchmarks)/[A-Za-z0-9_./-]+)`", document.read_text()):
            assert (ROOT / name).exists() or "Acme" in name, f"{document.name}: {name}"


def test_tests_that_are_named_exist():
    """A promise that names its test has one."""
    texts = {path.name: path.read_text() for path in (ROOT / "Tests/blackbox").rglob("test_*.py")}
    functions = set(re.findall(r"^def (test_\w+)", "\n".join(texts.values()), re.MULTILINE))
    for document in DOCUMENTS:
        for name in re.findall(r"`(test_\w+(?:\.py)?)(?: [^`]*)?`", document.read_text()):
            assert name in texts or name in functions, f"{document.name}: {name}"


def test_the_configuration_in_the_readme_is_valid(binary, folder):
    text = re.search(r"```ini\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    configparser.ConfigParser().read_string(text)
    (folder / "photos.ini").write_text(text)
    run(binary, "check-config", folder / "photos.ini")


def test_commands_in_the_readme_are_known_to_the_program(binary):
    text = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"cloudfusion ([a-z-]+) [~M]", text))
    assert {"stop", "sync", "status"} <= commands
    for command in commands:
        assert run(binary, command, "--help").stdout


def test_scripts_are_well_formed():
    for script in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]:
        subprocess.run(["bash", "-n", script], check=True)
