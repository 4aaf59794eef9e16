"""The docs' site: every page is there and in the navigation, every link leads somewhere."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
TARGET = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


@pytest.fixture
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_link_to_each_other_to_images_and_to_the_repository(
    pages: ModuleType, tmp_path: Path
) -> None:
    pages.main(tmp_path / "site", "https://example.org/us")
    written = {path.name for path in (tmp_path / "site").glob("*.md")}
    assert written == {*pages.PAGES.values(), "api.md"}
    outside = set()
    for page in written:
        text = pages.FENCE.sub("", (tmp_path / "site" / page).read_text(encoding="utf-8"))
        for target, _ in TARGET.findall(text):
            if ":" in target:
                outside.add(target)
            else:
                assert (tmp_path / "site" / target).is_file(), (page, target)
    assert "https://example.org/us/blob/main/ezo/step.py" in outside


def test_without_a_repository_its_links_are_plain_text(pages: ModuleType, tmp_path: Path) -> None:
    pages.main(tmp_path / "site", "")
    text = (tmp_path / "site" / "method.md").read_text(encoding="utf-8")
    assert "(../" not in text and "ezo/step.py is this text as code" in text


def test_the_navigation_has_every_page_once(pages: ModuleType) -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert sorted(re.findall(r"[\w-]+\.md", nav)) == sorted([*pages.PAGES.values(), "api.md"])


def test_a_link_that_leads_nowhere_is_named(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.md").write_text("[b](b.md)", encoding="utf-8")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "PAGES", {"a.md": "index.md"})
    with pytest.raises(FileNotFoundError, match="a.md: expected b.md in the tree, got none; mend"):
        pages.main(tmp_path / "site", "")


def test_every_name_of_the_api_is_there(pages: ModuleType) -> None:
    for name in (name for names in pages.API.values() for name in names):
        if name == "ezo.integrations.hf":
            continue  # needs transformers
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, of = name.rpartition(".")
            assert hasattr(importlib.import_module(module), of), name
