"""The page in a real Chromium: it logs in, shows a task's rounds as they happen, and says what is wrong.

The pictures are written to out/web, to be looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import Browser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.aggregator.web.conftest import Site

pytestmark = [pytest.mark.browser, pytest.mark.serial, pytest.mark.timeout(300)]

OUT = Path("out/web")
DRAWN = "document.querySelectorAll('.chart').length >= 3 && document.querySelector('#devices table')"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def enter(browser: Browser, site: Site, role: str = "viewer") -> None:
    browser.open(f"{site.url}#token=efh_{role}")
    browser.wait(DRAWN)


def test_a_person_logs_in_with_a_token_and_sees_the_task(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.wait("document.querySelector('#login:not([hidden])')")
    browser.picture(OUT / "login.png")
    fill = "document.querySelector('#token').value = {}; document.querySelector('#login').requestSubmit()"
    browser.run(fill.format("'efh_wrong'"))
    browser.wait("document.querySelector('#login-error').textContent.includes('not good')")
    browser.run(fill.format("' efh_viewer '"))
    browser.wait(DRAWN)
    text = browser.run("document.querySelector('main').innerText")
    assert "[object" not in text
    for shown in ("sentiment", "55.0 %", "1 of 4 rounds folded", "kitchen", "attic", "sealed"):
        assert shown in text
    assert browser.run("document.querySelector('[data-key=stop]')") is None  # a viewer has nothing to press
    browser.picture(OUT / "light.png")
    browser.look(dark=True)
    browser.picture(OUT / "dark.png")
    browser.look(width=390, height=844)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.picture(OUT / "phone.png")
    assert [one for one in browser.errors if "401" not in one] == []


def test_rounds_appear_as_they_happen_and_what_was_opened_stays_open(browser: Browser, site: Site) -> None:
    enter(browser, site)
    browser.wait("document.body.innerText.includes('0 of 2 updates are in')")
    browser.run("document.querySelector('[data-key=accuracy]').open = true")
    kitchen, attic = (site.bench.device(name) for name in ("kitchen", "attic"))
    kitchen.join()
    attic.join()
    site.bench.settle()
    assert browser.run("document.querySelector('[aria-label=\"What devices tell\"]')") is None
    kitchen.update(metrics={"stream-accuracy": 0.75, "forgetting": -0.125})
    site.bench.settle()
    browser.wait("document.body.innerText.includes('1 of 2 updates are in')")
    attic.update(metrics={"stream-accuracy": 0.25})
    site.bench.settle()
    browser.wait("document.body.innerText.includes('2 of 4 rounds folded')")
    assert browser.run("document.querySelector('[data-key=accuracy]').open")
    assert browser.run("document.querySelectorAll('[aria-label=Rounds] tbody tr').length") == 3
    told = browser.run("document.querySelector('[aria-label=\"What devices tell\"]').innerText").split()
    assert told[-8:] == ["stream-accuracy", "2", "50.0", "%", "25.0", "%", "75.0", "%"]
    assert "-12.5" in told
    browser.picture(OUT / "told.png")
    assert browser.errors == []


def test_every_chart_has_a_name_and_its_numbers_as_a_table(browser: Browser, site: Site) -> None:
    enter(browser, site)
    assert browser.run(
        "[...document.querySelectorAll('figure')].every((one) => one.querySelector('svg[role=img][aria-label]')"
        " && one.querySelector('figcaption') && one.querySelector('details table th[scope=col]'))"
    )
    assert browser.run("document.querySelectorAll('label[for=token]').length") == 1
    assert browser.run("document.documentElement.lang") == "en"


def test_an_operator_pauses_a_task_with_a_button(browser: Browser, site: Site) -> None:
    enter(browser, site, "operator")
    browser.run("document.querySelector('[data-key=pause]').click()")
    end = "document.querySelector('[data-key=resume]')"
    for _ in range(100):
        site.bench.clock.now += 1
        site.bench.settle()
        if browser.run(f"new Promise((done) => setTimeout(() => done(Boolean({end})), 200))"):
            break
    browser.wait(end, deadline_s=1)
    assert browser.errors == []


def test_the_page_says_when_there_is_no_broker_and_when_a_token_was_taken_back(browser: Browser, site: Site) -> None:
    enter(browser, site)
    browser.wait("document.querySelector('#health').textContent === 'running'")
    site.pulse.is_link_up = False
    browser.wait("document.querySelector('#health').textContent === 'no broker'")
    browser.run("sessionStorage.setItem('edgefold-token', 'efh_gone')")
    browser.wait("document.querySelector('#login-error').textContent.includes('taken back')")
    assert browser.run("sessionStorage.length") == 0
