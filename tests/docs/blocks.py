"""The fenced and the indented blocks of a Markdown page."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
_FENCE = re.compile(
    r"(?:<!--\s*not run:\s*(?P<why>[^>]+?)\s*-->\s*\n\s*)?"
    r"^(?P<indent> *)```(?P<language>[\w]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}[^\n]+\n)+", re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A block of a page: its language, text and line, and the reason if it is not run."""

    language: str
    text: str
    line: int
    not_run: str = ""


def blocks(page: pathlib.Path) -> Iterator[Block]:
    """Yields the blocks of a page in order."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        indent = len(match["indent"])
        lines = [line[indent:] for line in match["text"].splitlines()]
        yield Block(
            language=match["language"],
            text="\n".join(lines) + "\n",
            not_run=match["why"] or "",
            line=text.count("\n", 0, match.start("text")),
        )
    # Blank the fenced blocks, so that indented text inside of them is not found again.
    rest = _FENCE.sub(lambda m: re.sub(r"[^\n]", "", m[0]), text)
    for match in _INDENTED.finditer(rest):
        lines = [line[4:] for line in match[0].splitlines()]
        yield Block(language="", text="\n".join(lines) + "\n", line=1 + rest.count("\n", 0, match.start()))


_COMMAND = re.compile(r"(?:python |softbio-jax |make |pip |git |find |for |srun |NAME=|#SBATCH|\.venv)")


def is_shell(block: Block) -> bool:
    """Returns whether a block holds commands, not output (the fences look the same)."""
    return block.language in ("", "bash", "sh", "console") and bool(_COMMAND.match(block.text))


def steps(block: Block) -> list[str]:
    """Returns the commands of a shell block, with continued lines joined; a loop is one command."""
    text = re.sub(r"\\\n\s*", " ", block.text).strip()
    if re.search(r"^(for|while|if|#SBATCH) ?", text, re.MULTILINE):
        return [text]
    lines = (re.sub(r"\s+#\s.*", "", line) for line in text.splitlines())
    return [line.strip() for line in lines if line.strip()]


def commands(page: pathlib.Path) -> Iterator[tuple[int, str, str]]:
    """Yields (line, command, reason if not run) for every script called in a page's blocks."""
    for block in blocks(page):
        if block.language not in ("", "bash", "sh", "console"):
            continue
        joined = re.sub(r"\\\n\s*", " ", block.text)
        for line in joined.splitlines():
            found = re.search(r"(?:^|\s)(?:python3? )?(scripts/[\w/]+\.py)(.*)", line)
            if found and line.lstrip().startswith(("python", "scripts/", "srun", "find", "$")):
                arguments = re.sub(r"\s#\s.*", "", found[2])
                yield block.line, f"{found[1]}{arguments}", block.not_run


def inline_commands(page: pathlib.Path) -> Iterator[str]:
    """Yields the commands with flags in sentences, between backticks."""
    text = _FENCE.sub("", page.read_text())
    for match in re.finditer(r"`(?:python )?(scripts/[\w/]+\.py\s[^`]*--[^`]*)`", text):
        yield " ".join(match[1].split())
