"""A console that keeps what it would print."""

from softbio_jax.console import Console


class Recording(Console):
    """Keeps messages in `lines` and counts the checks in `checks`."""

    def __init__(self, check=lambda: None):
        super().__init__(check=self._counted)
        self.lines, self.checks, self._inner = [], 0, check

    def say(self, text):
        self.lines.append(text)

    def show(self, line, done, total):
        self.lines.append(line)

    def _counted(self):
        self.checks += 1
        self._inner()
