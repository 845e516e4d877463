"""The cockpit: the figures of a generated year, simulated apart from real, within a user's grids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from alerts.accuracy import AccuracySettings
from alerts.intervals import clopper_pearson_lower
from console.cockpit import _shade
from console.database import Database, tickets
from console.figures import DAY_S, Figures, figures, has_real
from console.settings import ConsoleSettings
from tests.console_page import chromium, console_app, log_in, picture, serve, until
from tests.console_year import add_year

NOW = 1_790_000_000.0
ZONE = ZoneInfo("Asia/Shanghai")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path_factory.mktemp('console') / 'console.sqlite'}")
    add_year(made, NOW, days=120, pictures=False)
    yield made
    made.close()


def look(database: Database, *, days: float = 30, scope: str = "", grid: str = "", simulated: bool = True) -> Figures:  # fmt: skip
    return figures(
        database, scope=scope, grid=grid, since=NOW - days * DAY_S, now=NOW, timezone=ZONE,
        settings=AccuracySettings(), simulated=simulated,
    )  # fmt: skip


def count(database: Database, *conditions: sa.ColumnElement[bool]) -> int:
    with database.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).where(*conditions)) or 0)


def test_every_count_is_that_of_the_tickets(database: Database) -> None:
    c = tickets.c
    found = look(database)
    recent = c.raised_t >= NOW - 30 * DAY_S
    assert found.raised == count(database, recent) > 500
    before = sa.and_(c.raised_t >= NOW - 60 * DAY_S, c.raised_t < NOW - 30 * DAY_S)
    assert found.raised_before == count(database, before)
    assert sum(found.open.values()) == count(database, c.is_open.is_(True))
    assert sum(sum(age.values()) for age in found.ages) == sum(found.open.values())
    assert sum(sum(one.counts.values()) for one in found.bins) == found.raised
    assert sum(found.raised_by_scenario.values()) == found.raised
    for heat in (found.heat["weekday"], found.heat["scenario"]):
        assert sum(sum(counts) for _, counts in heat.rows) == found.raised
    confirmed = count(database, recent, c.outcome == "confirmed")
    wrong = count(database, recent, c.outcome == "false_alarm")
    assert (found.accuracy.confirmed, found.accuracy.false_alarms) == (confirmed, wrong)
    assert found.accuracy.lower == pytest.approx(clopper_pearson_lower(confirmed, confirmed + wrong))  # fmt: skip


def test_a_users_grids_bound_everything(database: Database) -> None:
    inside = count(database, tickets.c.grid.startswith("jinjiang/12/"), tickets.c.raised_t >= NOW - 30 * DAY_S)  # fmt: skip
    found = look(database, scope="jinjiang/12")
    assert found.raised == inside
    assert {row.path for row in found.grids} == {"jinjiang/12/3", "jinjiang/12/4"}
    assert look(database, scope="jinjiang/12", grid="jinjiang/13").raised == 0
    assert {row.path for row in look(database).grids} == {"jinjiang/12", "jinjiang/13", "jinjiang/14"}  # fmt: skip


def test_simulated_tickets_are_never_counted_as_real(database: Database) -> None:
    assert not has_real(database, "")
    found = look(database, simulated=False)
    assert found.raised == 0
    assert found.accuracy.value is None
    assert found.accuracy.lower == 0.0


@pytest.mark.parametrize(("days", "by", "bins"), [(1, "hour", 25), (7, "day", 8), (30, "day", 31), (365, "week", 53)])  # fmt: skip
def test_bins_fit_the_time(database: Database, days: float, by: str, bins: int) -> None:
    found = look(database, days=days)
    assert found.by == by
    assert len(found.bins) == pytest.approx(bins, abs=1)


def test_shades_tell_none_from_one_and_one_from_most() -> None:
    assert [_shade(n, 100) for n in (0, 1, 25, 100)] == [0, 1, 4, 9]


@pytest.mark.real
@pytest.mark.timeout(120)
def test_the_page_shows_charts_and_the_same_figures_as_tables(
    tmp_path: Path, database: Database
) -> None:
    own = ConsoleSettings("demo", tmp_path, title="示范社区")
    app = console_app(own, database)
    app.state.console.clock = lambda: NOW
    with serve(app) as address, chromium() as browser:
        # The sessions of the browser are of the same clock.
        page = log_in(browser, address)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.goto(f"{address}/cockpit?window=30d")
        until(page, "typeof Chart !== 'undefined' && Chart.getChart('c-bins') !== undefined")  # fmt: skip
        drawn = page.evaluate("Chart.getChart('c-bins').data.datasets.flatMap(d => d.data).reduce((a, b) => a + b, 0)")  # fmt: skip
        assert drawn == look(database).raised
        assert "98.8%" in page.locator(".cockpit-stats").inner_text()
        assert page.locator(".cockpit-simulated").is_visible()
        page.click("#tab-scenario")
        assert page.locator("#heat-scenario tbody tr").count() == 4
        page.click("#tab-weekday")
        picture(page, "console-cockpit", whole=True)
        page.click("table a[href*='grid=jinjiang%2F12']")
        page.wait_for_url("**/cockpit?*")
        assert page.locator(".crumbs [aria-current]").inner_text() == "12"
        for size, name in (((390, 844), "console-cockpit-phone"), ((1920, 1080), "console-cockpit-wall")):  # fmt: skip
            page.set_viewport_size({"width": size[0], "height": size[1]})
            page.emulate_media(color_scheme="dark" if size[0] == 1920 else "light")
            page.goto(f"{address}/cockpit?window=30d" + ("&wall=1" if size[0] == 1920 else ""))
            until(page, "Chart.getChart('c-bins') !== undefined")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= size[0], "nothing hangs over the edge"
            if size[0] == 1920:
                assert page.evaluate("document.documentElement.scrollHeight") <= size[1]
                cut = "[...document.querySelectorAll('#cockpit .panel')].filter(p => p.scrollHeight > p.clientHeight + 1).length"
                assert page.evaluate(cut) == 0, "nobody scrolls a wall"
            picture(page, name, whole=size[0] == 390)
        assert faults == []
