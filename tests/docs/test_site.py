"""The site as built: every link of every page leads somewhere, with and without a public repository."""

import html.parser
import os
import subprocess
import sys
import urllib.parse

import pytest

from tests.docs.blocks import ROOT

ADDRESS = "https://example.org/me/softbio_jax"


class Page(html.parser.HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.update(values[key] for key in ("id", "name") if values.get(key))
        self.links += [values[key] for key in ("href", "src") if values.get(key)]


def dead_links(site, address=""):
    """Returns (page, link) of every link into the site or the repository that leads nowhere."""
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            found = urllib.parse.urlsplit(link)
            target = urllib.parse.unquote(found.path)
            if address and link.startswith(f"{address}/"):
                _, kind, branch, file = link.removeprefix(address).split("/", 3)
                there = ROOT / file
                good = branch == "main" and (there.is_dir() if kind == "tree" else there.is_file())
            elif found.scheme or found.netloc:
                continue
            else:
                there = (site / target[1:] if target.startswith("/") else path.parent / target).resolve()
                there = path if not target else there / "index.html" if there.is_dir() else there
                anchor = urllib.parse.unquote(found.fragment)
                good = there.is_file() and (not anchor or anchor in pages[there].anchors)
            if not good:
                dead.append((path.relative_to(site).as_posix(), link))
    return dead


def build(tmp_path, address=""):
    """Returns the folder of the site, built as by `make docs`."""
    config = (ROOT / "mkdocs.yml").read_text()
    config = config.replace("docs_dir: docs", f"docs_dir: {ROOT / 'docs'}")
    config = config.replace("hooks: [docs/hooks.py]", f"hooks: [{ROOT / 'docs' / 'hooks.py'}]")
    config = config.replace("paths: [.]", f"paths: [{ROOT}]")
    if address:
        config += f"repo_url: {address}\n"
    (tmp_path / "mkdocs.yml").write_text(config)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(tmp_path / "mkdocs.yml"), "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, check=True, timeout=300, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    return tmp_path / "site"


@pytest.mark.long
@pytest.mark.parametrize("address", ["", ADDRESS], ids=["no address", "an address"])
def test_no_link_is_dead(tmp_path, address):
    site = build(tmp_path, address)
    assert dead_links(site, address) == []
    page = site / "demo.html"
    page.write_text(page.read_text().replace('id="', 'id="not-', 1).replace("images/", "pictures/", 1))
    assert dead_links(site, address), "a broken page is not detected"
    if address:
        assert f"{ADDRESS}/blob/main/" in (site / "architecture.html").read_text()
    home = (site / "index.html").read_text()
    assert "make demo" in home
    assert "demo_app.png" in home
    assert "readme:" not in home
