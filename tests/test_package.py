"""The distribution's own files: names of requirements, of workflows and of what is installed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    *(ROOT / name for name in ("pyproject.toml", "tox.ini", "constraints.txt", "README.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "docs").glob("**/*.md"),
    *(ROOT / ".github").glob("**/*.yml"),
    *(path for top in ("ezo", "bench", "reproduce") for path in (ROOT / top).glob("**/*.py")),
]
# A requirement of that name: quoted with an extra or a version, or a word given to pip.
STRANGERS = re.compile(
    r"""["']ezo(\[[\w,]+\])?\s*([<>=~!][^"']*)?["']\s*[,\]](?=[^\n]*>=)"""
    r"""|["' ]ezo\[|["' ]ezo\s*[=<>~!]=|^ezo\b\s*$"""
    r"""|(pip|uv|pipx)3? (add|install|download)( -\S+| \S+)*? ["']?ezo\b(?!/)""",
    re.MULTILINE,
)


def test_no_requirement_is_the_strangers_package() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in FILES}
    found = {str(path): match[0] for path in FILES for match in STRANGERS.finditer(texts[path])}
    assert not found, "on PyPI `ezo` is another project; ours is `elasticzo`"


@pytest.mark.parametrize(
    "text",
    [
        'train = ["ezo[bench]", "x>=1"]',
        "pip install ezo",
        "python -m pip install -q 'ezo[train]' -c constraints.txt",
        "pip install -U ezo==1.0",
        'dependencies = ["torch>=2", "ezo>=0.1"]',
        "pip download --no-deps ezo",
    ],
)
def test_the_strangers_package_is_seen(text: str) -> None:
    assert STRANGERS.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'elasticzo[train]'",
        "import ezo",
        'packages = ["ezo", "bench"]',
        "pip install ./ezo/x",
    ],
)
def test_other_uses_of_the_name_are_left_alone(text: str) -> None:
    assert not STRANGERS.search(text)
