"""Orders over HTTP go the way of the command line's: a row, which the service obeys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.steering import LOOK_EVERY_S
from protocol.fields import plain
from tests.aggregator.workbench import TASK, task_settings

if TYPE_CHECKING:
    from tests.aggregator.web.conftest import Site


def look(site: Site) -> None:
    site.bench.clock.now += LOOK_EVERY_S
    site.bench.settle()
    site.bench.settle()


def test_a_task_is_paused_resumed_and_rolled_back(site: Site) -> None:
    said = site.api(f"tasks/{TASK}/commands", role="operator", data={"verb": "pause"})
    assert (said.status, said.json["status"]) == (202, "waiting")
    look(site)
    assert site.api(f"commands/{said.json['command']}").json["status"] == "done"
    assert site.api(f"tasks/{TASK}").json["state"] == "paused"
    assert site.api(f"tasks/{TASK}/commands", role="operator", data={"verb": "resume"}).status == 202
    look(site)
    order = {"verb": "rollback", "version": 0}
    assert site.api(f"tasks/{TASK}/commands", role="operator", data=order).status == 202
    look(site)
    newest = site.api(f"tasks/{TASK}/versions").json["versions"][0]
    assert (newest["version"], newest["origin"]) == (2, 0)


def test_a_task_is_created_by_an_admin_and_runs(site: Site) -> None:
    settings = plain(task_settings(site.bench.bundle, id="second"))
    assert site.api("tasks", role="admin", data=settings).status == 202
    look(site)
    assert [one["task"] for one in site.api("tasks").json["tasks"]] == ["second", TASK]
    again = site.api("tasks", role="admin", data=settings)
    assert (again.status, "another id" in again.json["detail"]) == (409, True)


def test_a_task_whose_bundle_is_missing_is_refused(site: Site) -> None:
    settings = plain(task_settings(site.bench.bundle, id="second")) | {"bundle": "nowhere"}
    assert site.api("tasks", role="admin", data=settings).status == 409


def test_a_device_is_shut_out(site: Site) -> None:
    assert site.api("devices/shed/revoke", role="operator", method="POST").json["status"] == "revoked"
    assert site.api("devices/shed").json["status"] == "revoked"
    assert site.api("devices/shed/approve", role="operator", method="POST").status == 409


def test_tokens_for_devices_need_an_authority(site: Site) -> None:
    said = site.api("device-tokens", role="admin", data={"count": 2})
    assert (said.status, "authority" in said.json["detail"]) == (409, True)
