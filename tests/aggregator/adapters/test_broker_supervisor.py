"""The broker is brought back with growing waits, and a predecessor's port is waited for."""

from __future__ import annotations

import pytest

from aggregator.adapters.broker_supervisor import BrokerSupervisor
from protocol.errors import ConfigError, TransportError


class FakeProcess:
    kind, host, port = "embedded", "127.0.0.1", 1883

    def __init__(self, *failures: Exception) -> None:
        self.failures, self.n_starts, self.is_alive = list(failures), 0, False

    def start(self) -> None:
        self.n_starts += 1
        if self.failures:
            raise self.failures.pop(0)
        self.is_alive = True

    def stop(self) -> None:
        self.is_alive = False


def starts_between(process: FakeProcess, supervisor: BrokerSupervisor, begin: float, end: float) -> int:
    before = process.n_starts
    for tenth in range(int(begin * 10), int(end * 10)):
        supervisor.tick(tenth / 10)
    return process.n_starts - before


def test_a_dead_broker_is_started_again() -> None:
    process = FakeProcess()
    supervisor = BrokerSupervisor(process, may_have_predecessor=False)
    supervisor.tick(1.0)
    process.is_alive = False
    assert starts_between(process, supervisor, 1.1, 3) == 1
    assert process.is_alive


def test_a_broker_that_does_not_start_is_tried_less_and_less_often() -> None:
    process = FakeProcess()
    supervisor = BrokerSupervisor(process, may_have_predecessor=False)
    supervisor.tick(1.0)
    process.is_alive = False
    process.failures = [TransportError("no")] * 100
    assert 4 <= starts_between(process, supervisor, 1, 10) <= 7
    assert starts_between(process, supervisor, 200, 300) <= 5


def test_a_port_in_use_is_the_users_to_solve() -> None:
    with pytest.raises(ConfigError):
        BrokerSupervisor(FakeProcess(ConfigError("in use")), may_have_predecessor=False)


def test_the_broker_of_a_killed_service_is_given_time_to_end() -> None:
    process, slept = FakeProcess(*[ConfigError("in use")] * 5), list[float]()
    BrokerSupervisor(process, may_have_predecessor=True, sleep=slept.append)
    assert process.is_alive
    assert len(slept) == 5
    with pytest.raises(ConfigError):
        BrokerSupervisor(FakeProcess(*[ConfigError("in use")] * 99), may_have_predecessor=True, sleep=slept.append)
