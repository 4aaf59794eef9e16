"""Lay out the site's pages: ``python docs/pages.py build/pages``, then ``mkdocs build --strict``.

README, the guides, CONTRIBUTING, CHANGELOG and the report are copied; a link between them leads to
the copy, an image comes along, and a link to another file of the tree leads to the repository where
``REPOSITORY`` (an address) says where that is, else it is plain text. The API's page names what
mkdocstrings takes from docstrings.
"""

import functools
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    **{f"docs/{page.name}": page.name for page in sorted((ROOT / "docs").glob("*.md"))},
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "reports/paper/REPORT.md": "report.md",
}
IMAGES = (".png", ".svg", ".jpg")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
API = {
    "Training": ["ezo.ElasticZO", "ezo.split", "ezo.layers", "ezo.Nodes", "ezo.Feedback"],
    "Integers": ["ezo.int8.from_float", "ezo.int8.ElasticZO", "ezo.int8.Int8Tensor"],
    "Runs": ["ezo.run.Run", "ezo.train.train", "ezo.rows.Row", "ezo.catalogue"],
    "Plans, checks and trainers": [
        "ezo.plan.plan", "ezo.conformance", "ezo.node_conformance", "ezo.integrations.hf",
    ],
}  # fmt: skip


def main(out: Path, repository: str) -> None:
    """Write all pages to a folder, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        parts = FENCE.split(text)  # every second one is code
        link = functools.partial(_link, source=source, out=out, repository=repository)
        parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
        (out / page).write_text("".join(parts), encoding="utf-8")
    lines = ["# API\n"]
    for title, names in API.items():
        lines += [f"\n## {title}\n", *(f"\n::: {name}\n" for name in names)]
    (out / "api.md").write_text("".join(lines), encoding="utf-8")


def _link(found: re.Match[str], source: str, out: Path, repository: str) -> str:
    image, text, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    path, mark, place = target.partition("#")
    file = Path(os.path.normpath(ROOT / Path(source).parent / path))
    if not file.exists():
        raise FileNotFoundError(f"{source}: expected {target} in the tree, got none; mend the link")
    name = file.relative_to(ROOT).as_posix()
    if name in PAGES:
        return f"{image}[{text}]({PAGES[name]}{mark}{place})"
    if file.suffix in IMAGES:
        copy = out / "images" / name.replace("/", "-")
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
        return f"{image}[{text}](images/{copy.name})"
    return f"[{text}]({repository}/blob/main/{name}{mark}{place})" if repository else text


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ.get("REPOSITORY", "").rstrip("/"))
