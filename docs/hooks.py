"""For mkdocs: links from the pages to files of the repository.

Links such as ../softbio_jax/tasks.py lead out of docs/, which mkdocs does not serve. They become links
below `repo_url` or, without one, plain code.
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
