"""The section of a report on labels that are not one class: counts, ages in years, sets, votes."""

from collections.abc import Iterator, Sequence

from softbio_jax.errors import UserError
from softbio_jax.evaluation.metrics import ages, conformal, vote_metrics
from softbio_jax.evaluation.report import document
from softbio_jax.evaluation.report.document import Block, Section, Table, Text
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.tasks import AGE

NO_AGE_GATE = (
    "This is not an age gate: do not use it for access control or any decision about a person. The rates "
    "below show how often this model takes a minor for an adult, and for whom."
)
Row = tuple[str, ...]


def section(runs: Sequence[RunResults]) -> Section | None:
    """Returns the section, None where no run has any of its tables."""
    errors = ("n", "MAE, years", *(f"within {t} years, %" for t in ages.TOLERANCES))
    minors = _table(
        "People below an age who are predicted to have reached it",
        ("run", "test set", "age", "group", "n", "rate, %"),
        [row for run in runs for row in _minors(run)],
        "A label of a class or range counts where all of its years are below. Predicted is the expected age. "
        "In brackets Wilson's 95 % interval.",
        words=4,
    )
    tables = [
        _table(
            "Labels of the training rows",
            ("run", "task", "full", "partial", "none"),
            [row for run in runs for row in _counts(run)],
            "Full: one class. Partial: a range, a set or votes for several.",
            words=2,
        ),
        _table(
            "Expected age against true years",
            ("run", "test set", *errors),
            [row for run in runs for row in _errors(run)],
            "Sets with ages in years. In brackets 95 % intervals: Student's for the mean, else Wilson's.",
            words=2,
        ),
        _table(
            "Expected age against labelled ranges",
            ("run", "test set", "n", "inside, %", "mean distance, years"),
            [row for run in runs for row in _ranges(run)],
            "Labels that are ranges, not one class. The distance is to the nearest end, and 0 inside. In "
            "brackets Wilson's 95 % interval.",
            words=2,
        ),
        minors,
        _table(
            f"Sets of age classes that should contain the true one in {1 - conformal.ERROR:.0%} of images",
            ("run", "test set", "group", "n", "contained, %", "classes per set"),
            [row for run in runs for row in _sets(run)],
            "Split conformal prediction on the validation rows: the share holds for images like these, on "
            "average over groups.",
            words=3,
        ),
        _table(
            "Against the votes of annotators",
            ("run", "test set", "task", "n", "cross-entropy", "divergence", "agreement, %", "of majority, %"),
            [row for run in runs for row in _votes(run)],
            "Nats; agreement is the share of annotators who chose the predicted class.",
            words=3,
        ),
    ]
    blocks: list[Block] = []
    for table in tables:
        if table is not None:
            blocks += [Text(text=NO_AGE_GATE, warning=True)] * (table is minors) + [table]
    return Section(title="Partial labels and ages", blocks=tuple(blocks)) if blocks else None


def _table(title: str, header: Row, rows: Sequence[Row], note: str, *, words: int) -> Table | None:
    if not rows:
        return None
    return Table(title=title, header=header, rows=tuple(rows), notes=(note,), text_columns=words)


def _counts(run: RunResults) -> Iterator[Row]:
    for task, counts in run.info.get("labels", {}).items():
        yield run.name, task, *(document.count(counts[key]) for key in ("full", "partial", "none"))


def _errors(run: RunResults) -> Iterator[Row]:
    for name, item in run.predictions.items():
        if (found := ages.errors(item)) is not None:
            low, high = found["interval"]
            mean = f"{found['mae']:.2f} [{low:.2f}, {high:.2f}]"
            shares = (found["cumulative_score"][t] for t in ages.TOLERANCES)
            shown = (document.with_bounds(score["share"], score["interval"]) for score in shares)
            yield run.name, name, document.count(found["n"]), mean, *shown


def _ranges(run: RunResults) -> Iterator[Row]:
    for name, item in run.predictions.items():
        if (found := ages.against_ranges(item)) is not None:
            inside = document.with_bounds(found["inside"], found["interval"])
            yield run.name, name, document.count(found["n"]), inside, f"{found['outside']:.2f}"


def _minors(run: RunResults) -> Iterator[Row]:
    for name, item in run.predictions.items():
        for row in ages.minors_called_adults(item):
            rate = document.with_bounds(row["rate"], row["interval"])
            yield run.name, name, str(row["threshold"]), row["group"], document.count(row["n"]), rate


def _sets(run: RunResults) -> Iterator[Row]:
    validation = run.validation
    if validation is None or AGE.name not in validation.tasks():
        return
    for name, item in run.predictions.items():
        if AGE.name in item.tasks():
            for row in conformal.coverage(item, validation, AGE.name):
                share, size = document.with_bounds(row["share"], row["interval"]), f"{row['mean_size']:.2f}"
                yield run.name, name, row["group"], document.count(row["n"]), share, size


def _votes(run: RunResults) -> Iterator[Row]:
    for name, item in run.predictions.items():
        for task in item.tasks():
            try:
                found = vote_metrics.against_votes(item, task)
            except UserError:  # a table's own column of such a name may hold anything
                continue
            if found is not None:
                nats = (f"{found[key]:.3f}" for key in ("cross_entropy", "divergence"))
                shares = (document.percent(found[key]) for key in ("agreement", "ceiling"))
                yield run.name, name, task, document.count(found["n"]), *nats, *shares
