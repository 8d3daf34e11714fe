import pytest

from softbio_jax.errors import UserError
from softbio_jax.planning.fit import Fit
from softbio_jax.planning.search import NothingFitsError, largest, largest_of_each

LIMIT = 16e9


def chip(needed):
    """Tries rows on a simulated chip: bytes needed by rows."""
    tried = []

    def try_rows(rows):
        tried.append(rows)
        used, fits = needed(rows), needed(rows) <= LIMIT
        if fits:
            return Fit(
                chips=8,
                batch_size=8 * rows,
                remat="none",
                fits=True,
                arguments=10**9,
                temporaries=int(used) - 10**9,
                limit=LIMIT,
                flops=1,
            )
        text = f"Used {used / 2**30:.2f}G of 14.90G hbm"
        return Fit(chips=8, batch_size=8 * rows, remat="none", fits=False, needed=text, limit=LIMIT, flops=1)

    return try_rows, tried


def straight(rows):
    return 1e9 + 0.3e9 * rows


def saturated(rows):
    """The compiler computes again where it gets tight: no straight line."""
    return min(1e9 + 0.5e9 * rows, 12e9 + 0.02e9 * rows)


def stepped(rows):
    return 1e9 + 0.1e9 * (rows // 8 * 8)


@pytest.mark.parametrize("granularity", [1, 8])
@pytest.mark.parametrize("guess", [0, 16, 48, 200, 4000])
@pytest.mark.parametrize("needed", [straight, saturated, stepped])
def test_the_largest_fits_and_the_next_does_not(needed, guess, granularity):
    try_rows, tried = chip(needed)
    fits, next_one = largest(try_rows, granularity=granularity, guess=guess)
    best = max(n for n in range(granularity, 5000, granularity) if needed(n) <= LIMIT)
    assert (fits.batch_size, next_one.batch_size) == (8 * best, 8 * (best + granularity))
    assert fits.fits and not next_one.fits
    assert len(tried) == len(set(tried)) <= 14


def test_a_line_through_two_leads_there():
    try_rows, tried = chip(straight)
    largest(try_rows)
    assert len(tried) <= 5


def test_a_good_guess_needs_two():
    try_rows, tried = chip(straight)
    largest(try_rows, guess=50)
    assert tried == [50, 51]


def test_nothing_fits():
    try_rows, _ = chip(lambda rows: 2e10)
    with pytest.raises(UserError, match=r"no batch fits: remat none.*found Used 18.63G of"):
        largest(try_rows)


def test_devices_of_unknown_memory_are_reported():
    unknown = Fit(chips=1, batch_size=1, remat="none", fits=True, arguments=1, flops=1)
    with pytest.raises(UserError, match="nothing to search for"):
        largest(lambda rows: unknown)


class TestEachPolicy:
    def of(self, sizes):
        """Tries policies whose bytes per row are given."""
        chips = {policy: chip(lambda rows, size=size: size * rows)[0] for policy, size in sizes.items()}
        return largest_of_each(sizes, lambda policy, rows: chips[policy](rows))

    def test_one_with_which_nothing_fits_is_skipped(self):
        found, refusals = self.of({"none": 2e10, "dots": 3e9, "full": 1e9})
        assert [fit.batch_size // 8 for fit in found] == [5, 6, 16, 17]
        assert [str(error).partition(":")[0] for error in refusals] == ["no batch fits"]

    def test_nothing_fits_with_any(self):
        with pytest.raises(NothingFitsError, match=r"Used 23\.28G"):
            self.of({"none": 3e10, "full": 2.5e10})
