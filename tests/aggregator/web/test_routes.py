"""The interface over real HTTP: what it shows, whom it lets in, what it refuses and how."""

from __future__ import annotations

import http.client
import urllib.parse
from contextlib import closing
from typing import Any

import pytest

from aggregator.adapters.sql_access import SqlAccess
from aggregator.config import Config, DevicesSettings, ServiceSettings
from aggregator.core.access import ROLES
from aggregator.core.staging import WorkerRecord
from aggregator.ingest_settings import IngestSettings
from aggregator.web.metrics import Metrics
from aggregator.web.operations import OPERATIONS
from aggregator.web.sources import open_sources
from tests.aggregator.web.conftest import Answer, Site, give_token
from tests.aggregator.workbench import FLEET, TASK


def is_problem(answer: Answer, status: int) -> bool:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json) == {"type", "title", "status", "detail"}
    return bool(answer.json["status"] == status)


def test_a_task_is_shown_with_its_rounds_versions_and_figures(site: Site) -> None:
    (task,) = site.api("tasks").json["tasks"]
    assert (task["task"], task["state"], task["version"], task["n_updates"]) == (TASK, "open", 1, 2)
    newest, first = site.api(f"tasks/{TASK}/rounds").json["rounds"]
    assert (newest["state"], first["state"], first["n_participants"], first["n_updates"]) == ("open", "folded", 2, 2)
    summary = site.bench.store.summary(TASK, 1)
    assert (first["bytes_up"], first["bytes_down"]) == (summary.bytes_up, summary.bytes_down)
    assert first["loss"] == pytest.approx(summary.loss)
    versions = site.api(f"tasks/{TASK}/versions").json["versions"]
    assert [one["version"] for one in versions] == [1, 0]
    assert set(versions[0]["sets"]) == {"tweets", "films"}
    assert versions[0]["pooled_accuracy"] == pytest.approx(0.55)
    assert versions[0]["status"] == "promoted"
    assert site.api(f"tasks/{TASK}").json["settings"]["cohort"] == 2


def test_pages_are_bounded_and_continue(site: Site) -> None:
    (newest,) = site.api(f"tasks/{TASK}/versions?limit=1").json["versions"]
    (older,) = site.api(f"tasks/{TASK}/versions?limit=1&before={newest['version']}").json["versions"]
    assert (newest["version"], older["version"]) == (1, 0)
    page = site.api("devices?limit=2").json
    assert (len(page["devices"]), page["n_devices"]) == (2, 3)
    rest = site.api(f"devices?limit=2&after={page['next']}").json
    assert [one["device"] for one in page["devices"] + rest["devices"]] == ["attic", "kitchen", "shed"]
    assert rest["next"] is None


def test_what_devices_tell_is_shown_by_round(site: Site) -> None:
    assert site.api(f"tasks/{TASK}/device-figures").json == {"figures": []}
    kitchen, attic = (site.bench.device(name) for name in ("kitchen", "attic"))
    for figures in ({"stream-accuracy": 0.75, "forgetting": -0.125}, {"stream-accuracy": 1.0}):
        for device in (kitchen, attic):
            device.join()
        site.bench.settle()
        kitchen.update(metrics=figures)
        attic.update(metrics={"stream-accuracy": 0.25})
        site.bench.settle()
    newest, first, former = site.api(f"tasks/{TASK}/device-figures").json["figures"]
    assert newest | {"round": 0} == {
        "round": 0, "name": "stream-accuracy", "n_devices": 2, "mean": 0.625, "lowest": 0.25, "highest": 1.0
    }  # fmt: skip
    assert (first["name"], first["n_devices"], first["mean"]) == ("forgetting", 1, -0.125)
    assert (former["name"], former["mean"], former["round"]) == ("stream-accuracy", 0.5, newest["round"] - 1)
    assert site.api(f"tasks/{TASK}/device-figures?limit=1").json == {"figures": [newest]}


def test_refusals_are_shown_by_reason(site: Site) -> None:
    attic = site.bench.device("attic")
    attic.join(round_=99)
    site.bench.settle()
    ((reason, count),) = site.api(f"tasks/{TASK}/refusals").json["refusals"].items()
    assert count == 1
    text = site.ask("metrics").body.decode()
    assert f'edgefold_refusals_total{{reason="{reason}",task="{TASK}"}} 1.0' in text


@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: one.id)
def test_nobody_is_let_in_without_a_token_and_no_role_does_more_than_its_own(site: Site, one: Any) -> None:
    path = one.route.lstrip("/").format(task=TASK, device="attic", command=1, _="")
    data: Any = {} if one.method == "POST" else None
    assert is_problem(site.api(path, role=None, data=data, method=one.method), 401)
    assert is_problem(site.api(path, token="efh_wrong", data=data, method=one.method), 401)
    for role in ROLES[: ROLES.index(one.role)]:
        assert is_problem(site.api(path, role=role, data=data, method=one.method), 403)


def test_a_token_that_was_taken_back_or_expired_is_refused_at_once(site: Site) -> None:
    database = site.bench.folders.database
    late, gone = give_token(database, "late", "viewer", expires_s=0.0), give_token(database, "gone", "viewer")
    assert is_problem(site.api("me", token=late), 401)
    assert site.api("me", token=gone).json["name"] == "gone"
    with closing(SqlAccess(database)) as access:
        access.revoke("gone")
    assert is_problem(site.api("me", token=gone), 401)


def test_wrong_tokens_again_and_again_hear_429_and_right_ones_are_still_let_in(site: Site) -> None:
    answers = [site.api("me", token="efh_wrong") for _ in range(12)]
    assert answers[0].headers["www-authenticate"].startswith("Bearer")
    assert is_problem(answers[-1], 429)
    assert int(answers[-1].headers["retry-after"]) > 0
    assert site.api("me").status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("nothing", 404),
        ("tasks/other", 404),
        ("tasks/NO%20NAME", 422),
        (f"tasks/{TASK}/rounds?limit=0", 422),
        (f"tasks/{TASK}/rounds?limit=1001", 422),
        (f"tasks/{TASK}/rounds?limit=one", 422),
        (f"tasks/{TASK}/rounds?limit=1&limit=2", 422),
        (f"tasks/{TASK}/rounds?what=1", 422),
        ("devices/nobody", 404),
        ("commands/7", 404),
        ("commands/x", 422),
    ],
)
def test_a_bad_question_is_a_problem_document(site: Site, path: str, status: int) -> None:
    assert is_problem(site.api(path), status)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"{", 400),
        (b'{"verb": NaN}', 400),
        (b"[" * 4000, 400),
        (b"\xff", 400),
        (b"[]", 422),
        ({"verb": "dance"}, 422),
        ({"verb": "pause", "more": 1}, 422),
        ({"verb": "rollback", "version": -1}, 422),
        ({"verb": "rollback", "version": 99}, 409),
        ({"verb": "resume"}, 409),
        (b" " * 5000, 413),
    ],
)
def test_a_bad_order_is_a_problem_document_and_changes_nothing(site: Site, data: object, status: int) -> None:
    assert is_problem(site.api(f"tasks/{TASK}/commands", role="operator", data=data), status)
    assert site.bench.lifecycle.waiting() == ()


def test_another_media_type_and_another_method_are_refused(site: Site) -> None:
    typed = {"content-type": "text/plain"}
    assert is_problem(site.api(f"tasks/{TASK}/commands", role="operator", data=b"{}", headers=typed), 415)
    refused = site.api("tasks", role="admin", data={}, method="PUT")
    assert is_problem(refused, 405)
    assert set(refused.headers["allow"].split(", ")) >= {"GET", "POST"}


def test_a_body_without_a_length_is_cut_off_at_its_bound(site: Site) -> None:
    parts = urllib.parse.urlsplit(site.url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)) as connection:
        connection.putrequest("POST", f"/api/v1/tasks/{TASK}/commands")
        connection.putheader("authorization", f"Bearer {site.tokens['operator']}")
        connection.putheader("content-type", "application/json")
        connection.putheader("transfer-encoding", "chunked")
        # One chunk, and no end of the body: what is sent after the answer would meet a connection that is closed.
        connection.endheaders(b"%x\r\n%b\r\n" % (8000, b" " * 8000))
        assert connection.getresponse().status == 413


def test_every_answer_has_the_security_headers_and_no_other_site_is_let_in(site: Site) -> None:
    origin = {"origin": "https://elsewhere.example"}
    for path in ("", "app.js", "metrics", "healthz", "api/v1/tasks", "nothing"):
        answer = site.ask(path, headers=origin)
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["access-control-allow-origin"] is None


def test_the_page_s_folder_is_the_only_one_that_is_served(site: Site) -> None:
    parts = urllib.parse.urlsplit(site.url)
    for path in ("/../routes.py", "/..%2froutes.py", "/%2e%2e/routes.py", "//etc/passwd"):
        with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)) as connection:
            connection.request("GET", path)
            assert connection.getresponse().status == 404


def test_probes_say_what_is_wrong(site: Site) -> None:
    assert site.ask("healthz", role=None).status == 200
    site.pulse.is_link_up = False
    assert is_problem(site.ask("readyz", role=None), 503)
    assert "broker" in site.ask("readyz", role=None).json["detail"]
    site.pulse.beat_s = None
    assert is_problem(site.ask("healthz", role=None), 503)


def test_metrics_have_the_ingest_workers_that_the_settings_name(site: Site) -> None:
    folders = site.bench.folders
    config = Config(
        service=ServiceSettings(fleet=FLEET, folder=str(folders.root), key="unread", database="postgresql://u@h/d"),
        devices=DevicesSettings(registry="unread"),
        ingest=IngestSettings(workers=1, external=("big",)),
    )
    with open_sources(config, folders, site.pulse) as sources:
        sources.staging.beat(WorkerRecord(worker="big", since_unix_s=1.0, seen_unix_s=77.0, n_staged=3))
        text = Metrics(sources).render().decode()
    assert "edgefold_staged_updates 0.0" in text
    assert 'edgefold_ingest_seen_seconds{worker="local-1"} 0.0' in text
    assert 'edgefold_ingest_seen_seconds{worker="big"} 77.0' in text
    assert "edgefold_staged_updates" not in site.ask("metrics").body.decode()


def test_metrics_need_a_token_and_count_from_the_database(site: Site) -> None:
    assert is_problem(site.ask("metrics", role=None), 401)
    text = site.ask("metrics").body.decode()
    assert f'edgefold_rounds_total{{outcome="folded",task="{TASK}"}} 1.0' in text
    assert f'edgefold_updates_total{{task="{TASK}"}} 2.0' in text
    assert f'edgefold_accuracy{{set="films",task="{TASK}"}}' in text
    assert "edgefold_link_up 1.0" in text
    assert "attic" not in text
