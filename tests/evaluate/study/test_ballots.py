"""Ratings are stored once each, whoever sends them how often, in SQLite and in PostgreSQL."""

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from designs import rated

from v2meow.evaluate.study.ballots import Ballots, Cast, sqlite_url
from v2meow.evaluate.study.design import StudyError

POSTGRES = "V2MEOW_TEST_POSTGRES"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "ratings.sqlite")
    if POSTGRES not in os.environ:
        pytest.skip(f"no PostgreSQL: set {POSTGRES} to postgresql://USER@HOST/DATABASE")
    return os.environ[POSTGRES]


@pytest.fixture
def two(url: str) -> Iterator[tuple[Ballots, Ballots]]:
    """The same ratings opened twice, as by two servers."""
    study = secrets.token_hex(8)
    pair = Ballots(url, study, max_raters=9), Ballots(url, study, max_raters=9)
    yield pair
    for one in pair:
        one.close()


def test_a_rating_that_is_sent_again_is_stored_once(two):
    """The answer to the first sending may have been lost: the page cannot know, and sends it again."""
    here, there = two
    rating = rated("p1", 2, rater="ann")
    assert (here.cast(rating), there.cast(rating), here.cast(rating)) == (Cast.NEW, Cast.KNOWN, Cast.KNOWN)
    (stored,) = there.all()
    assert stored == replace(rating, received=stored.received)


def test_nothing_replaces_an_answer(two):
    """A second tab, or a key used twice: the first answer stands and the other is told so."""
    here, there = two
    here.cast(rated("p1", 2, rater="ann"))
    assert there.cast(replace(rated("p1", -1, rater="ann"), key="another")) is Cast.RATED
    assert there.cast(rated("p1", -1, rater="ann")) is Cast.RATED, "its own key with another answer"
    reused = replace(rated("p2", 1, rater="ann"), key=rated("p1", 2, rater="ann").key)
    assert there.cast(reused) is Cast.REUSED
    assert there.cast(replace(rated("p1", 1, rater="bob"), key=reused.key)) is Cast.NEW, "keys are each rater's own"
    assert [(one.rater, one.choice) for one in here.all()] == [("ann", -2), ("bob", -1)]
    assert [one.rater for one in here.of("bob")] == ["bob"]


def test_many_senders_at_once_store_each_rating_once(two):
    """Eight threads over two servers send the same hundred ratings: none is lost, none is doubled, none fails."""
    ratings = [rated(f"p{n % 20}", 1, rater=f"r{n // 20}") for n in range(100)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: two[n % 2].cast(ratings[n % 100]), range(300)))
    assert Counter(outcomes) == {Cast.NEW: 100, Cast.KNOWN: 200}
    assert len({(one.rater, one.pair) for one in two[0].all()}) == len(two[0].all()) == 100


def test_a_study_takes_no_more_raters_than_it_wants_but_lets_those_inside_go_on(url):
    """Anybody can make a token: a page left open to the world must not fill the disk."""
    ballots = Ballots(url, secrets.token_hex(8), max_raters=2)
    assert ballots.cast(rated("p1", 1, rater="ann")) is Cast.NEW
    assert ballots.cast(rated("p1", 1, rater="bob")) is Cast.NEW
    assert ballots.cast(rated("p1", 1, rater="cat")) is Cast.FULL
    assert ballots.cast(rated("p2", 1, rater="bob")) is Cast.NEW
    ballots.close()


def test_studies_in_one_database_do_not_see_each_other(url):
    names = [secrets.token_hex(8) for _ in range(2)]
    one, other = (Ballots(url, name) for name in names)
    assert one.cast(rated("p1", 1, rater="ann")) is Cast.NEW
    assert other.all() == []
    assert other.cast(rated("p1", -1, rater="ann")) is Cast.NEW
    one.close()
    other.close()


@pytest.mark.parametrize("bad", ["nonsense", "sqlite:////no/such/folder/x.sqlite", "martian://host/db"])
def test_a_database_that_cannot_be_opened_is_one_line(bad):
    with pytest.raises(StudyError) as caught:
        Ballots(bad, "s")
    assert "\n" not in str(caught.value)
