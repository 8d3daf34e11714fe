"""For mkdocs: pages that exist and are in no menu yet are put there, links to code stay links.

The pages link to files of the repository, such as ../softbio_jax/tasks.py, which a reader on the
web finds beside the pages and mkdocs does not know: they become links to what `repo_url` names, or
plain code where it names nothing.
"""

import posixpath
import re

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown, page, config, **_):
    """Rewrites links that lead out of docs/."""
    here = posixpath.dirname(page.file.src_uri)

    def rewrite(match):
        text, target, _ = match.groups()
        path = posixpath.normpath(posixpath.join("docs", here, target))
        if "://" in target or path.startswith("docs/"):
            return match[0]
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})"
        return text if text.startswith("`") else f"`{text}`" if "/" in text or "." in text else text

    return _LINK.sub(rewrite, markdown)
