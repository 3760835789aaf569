"""A task with differential privacy: paid before it is told, stopped at its budget, the same bytes after any kill."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.adapters.spent_file import SpentFile
from aggregator.core.privacy.accounting import epsilon_of
from aggregator.core.privacy.ledger import Step, steps_of
from aggregator.dp_settings import AdaptiveSettings, DpSettings
from aggregator.privacy_settings import PrivacySettings
from aggregator.verification import verify_task
from protocol.errors import ConfigError, StorageError
from protocol.messages import Decline
from tests.aggregator.test_restart import play_to_the_end
from tests.aggregator.workbench import FLEET, TASK, Bench, KilledError

if TYPE_CHECKING:
    from collections.abc import Callable

DELTA = 1e-5
Z = 1.0


def private(**changes: Any) -> PrivacySettings:
    settings: dict[str, Any] = {"mode": "central", "epsilon": 100.0, "delta": DELTA, "clip": 0.5, "noise_multiplier": Z}
    return PrivacySettings(dp=DpSettings(**{**settings, **changes}))


def cost(n_rounds: int) -> float:
    return epsilon_of([Step(noise_multiplier=Z, sampling_rate=1.0, count=n_rounds)], delta=DELTA)


def bytes_of_versions(bench: Bench) -> list[bytes]:
    return [bench.adapter_bytes(one.version) for one in bench.store.versions(TASK)]


def test_a_fold_is_noisy_charged_and_can_be_folded_again(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=private())
    devices = [bench.device("a"), bench.device("b")]
    bench.play(*devices, rounds=2)
    ledger = bench.store.ledger(TASK)
    assert [one.round for one in ledger] == [1, 2]
    assert [one.epsilon for one in ledger] == pytest.approx([cost(1), cost(2)])
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good
    moved = bench.runner.versions.adapter(1) - bench.runner.versions.adapter(0)
    # Noise z C / m on 96 values, and a mean of norm C at most.
    assert np.std(moved) == pytest.approx(Z * 0.5 / 2, rel=0.25)


def test_the_noise_is_forgotten_with_the_updates(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=private())
    bench.keep_folded_updates = False
    bench.restart()
    seeds: list[bytes] = []

    def look(name: str) -> None:
        if name == "fold":
            seeds.extend(one.noise_seed for one in bench.store.ledger(TASK) if one.noise_seed is not None)

    bench.hooks.before = look
    bench.play(bench.device("a"), bench.device("b"))
    (entry,) = bench.store.ledger(TASK)
    assert len(seeds) == 1
    assert entry.noise_seed is None
    bench.stop()  # checkpoints the log into the file
    assert seeds[0] not in bench.folders.database.read_bytes()
    assert seeds[0].hex() not in bench.folders.spent(TASK).read_text()
    bench.start()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_any_effect_changes_neither_bytes_nor_cost(when: str, make_bench: Callable[..., Bench]) -> None:
    settings: dict[str, Any] = {"privacy": private(adaptive=AdaptiveSettings()), "rounds": 2}
    whole = make_bench("whole", **settings)
    whole.hooks.count()
    play_to_the_end(whole, [whole.device("a"), whole.device("b")])
    expected, ledger = bytes_of_versions(whole), whole.store.ledger(TASK)
    assert ledger[1].clip == ledger[0].next_clip != ledger[0].clip
    n_effects = whole.hooks.n_effects
    for n in range(n_effects // 3, n_effects):  # the joins of round 1 are test_restart's
        bench = make_bench(f"{when}-{n}", **settings)
        devices = [bench.device("a"), bench.device("b")]
        bench.hooks.kill(when, n)
        try:
            play_to_the_end(bench, devices)
        except KilledError:
            bench.hooks.spare()
            bench.restart()
        play_to_the_end(bench, devices)
        assert bytes_of_versions(bench) == expected, f"killed {when} effect {n}"
        assert bench.store.ledger(TASK) == ledger
        assert len(SpentFile(bench.folders.spent(TASK)).read()) == 2
        bench.stop()


def test_the_task_stops_when_its_budget_is_spent(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=private(epsilon=cost(3) + 0.01), rounds=10)
    bench.play(bench.device("a"), bench.device("b"), rounds=3)
    assert bench.runner.is_finished
    assert bench.version == 3
    bench.restart()
    assert bench.runner.is_finished


def test_noise_that_is_solved_for_lasts_for_the_rounds_that_were_asked_for(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=private(epsilon=5.0, noise_multiplier=None), rounds=3)
    devices = [bench.device("a"), bench.device("b")]
    bench.play(*devices)
    bench.restart()
    bench.settle()
    bench.play(*devices, rounds=2)
    ledger = bench.store.ledger(TASK)
    assert bench.runner.is_finished
    assert len({one.noise_multiplier for one in ledger}) == 1
    assert 4.9 < ledger[-1].epsilon <= 5.0 + 1e-6
    # More rounds are asked for, and nothing is left to pay for them.
    bench.settings = dataclasses.replace(bench.settings, rounds=5)
    bench.restart()
    assert bench.runner.is_finished
    assert bench.version == 3


def test_a_restored_database_does_not_give_the_budget_back(make_bench: Callable[..., Bench], tmp_path: Any) -> None:
    bench = make_bench(privacy=private(epsilon=cost(3) + 0.01), rounds=10)
    devices = [bench.device("a"), bench.device("b")]
    bench.play(*devices)
    bench.stop()
    backup = tmp_path / "backup.db"
    shutil.copyfile(bench.folders.database, backup)
    bench.start()
    bench.settle()
    bench.play(*devices)  # round 2, which the backup does not know
    bench.stop()
    for suffix in ("", "-wal", "-shm"):
        bench.folders.database.with_name(f"aggregator.db{suffix}").unlink(missing_ok=True)
    shutil.copyfile(backup, bench.folders.database)
    draw = bench._draw_secret
    bench._draw_secret = lambda n: draw(n)[::-1]  # type: ignore[method-assign]  # as of another time
    bench.start()
    bench.settle()
    bench.play(*devices)  # round 2 again: the third that was ever told
    assert bench.runner.is_finished
    assert bench.version == 2
    entries = SpentFile(bench.folders.spent(TASK)).read()
    assert len(entries) == 3
    assert epsilon_of(steps_of(entries), delta=DELTA) == pytest.approx(cost(3))
    assert bench.store.ledger(TASK)[-1].epsilon == pytest.approx(cost(3))


def test_a_lost_database_does_not_give_the_budget_back(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=private(epsilon=cost(1) + 0.01), rounds=1)
    bench.play(bench.device("a"), bench.device("b"))
    bench.stop()
    for suffix in ("", "-wal", "-shm"):
        bench.folders.database.with_name(f"aggregator.db{suffix}").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="does not pay for a round after the 1 that were spent"):
        bench.start()


def test_a_spent_file_that_cannot_be_read_stops_the_task(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=private())
    bench.play(bench.device("a"), bench.device("b"))
    bench.stop()
    path = bench.folders.spent(TASK)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(StorageError, match="spent twice"):
        bench.start()


def test_a_promise_can_neither_be_dropped_nor_made_afterwards(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=private(), rounds=5)
    bench.play(bench.device("a"), bench.device("b"))
    bench.settings = dataclasses.replace(bench.settings, privacy=PrivacySettings())
    with pytest.raises(ConfigError, match="was begun with"):
        bench.restart()
    plain = make_bench("plain", rounds=5)
    plain.play(plain.device("a"), plain.device("b"))
    plain.settings = dataclasses.replace(plain.settings, privacy=private())
    with pytest.raises(ConfigError, match="were folded without"):
        plain.restart()


def test_the_service_clips_what_devices_did_not(make_bench: Callable[..., Bench]) -> None:
    """A device that sends 2 C moves the fold by C at most: the noise is the same in both runs and cancels."""
    moved = []
    for name, scale in (("honest", 0.0), ("liar", 0.9)):
        bench = make_bench(name, privacy=private(clip=0.45), rounds=1)
        a, b = bench.device("a"), bench.device("b")
        for device in (a, b):
            device.join()
            bench.settle()
        delta = np.zeros(96, np.float32)
        delta[0] = scale
        a.update(delta=delta, n_examples=1000)
        b.update(delta=np.zeros(96, np.float32))
        bench.settle()
        moved.append(bench.runner.versions.adapter(1) - bench.runner.versions.adapter(0))
    difference = moved[1] - moved[0]
    # Divided by the cohort of 2; examples do not weigh; float32 of both adapters rounds by 1e-7.
    assert difference[0] == pytest.approx(0.45 / 2, abs=1e-5)
    assert np.abs(difference[1:]).max() == 0


def test_sampled_devices_are_those_whose_coin_fell_well(make_bench: Callable[..., Bench]) -> None:
    dp = private(sampling="poisson", population=6)
    bench = make_bench(privacy=dp, rounds=2, cohort=3, min_cohort=1)
    devices = {name: bench.device(name) for name in "abcdefghij"}
    sampling = bench.runner.view().sampling
    assert sampling is not None
    assert sampling.rate == 0.5
    for device in devices.values():
        device.join()
        device.join()  # asking again does not throw the coin again
        bench.settle()
    chosen = {name for name in devices if bench.store.is_joined(TASK, 1, name)}
    assert chosen == {name for name in devices if sampling.takes(round_=1, device=name)}
    assert {reason.reason for d in devices.values() for reason in d.all(Decline)} == {"not-selected"}
    for name in chosen:
        devices[name].update()
    bench.settle()
    assert bench.round == 1  # neither a full cohort nor too small a one closes the round early
    bench.clock.now += 101
    bench.settle()
    assert bench.version == 1
    assert bench.store.ledger(TASK)[0].sampling_rate == 0.5
    assert bench.store.ledger(TASK)[0].epsilon < bench.store.ledger(TASK)[0].epsilon_unsampled == pytest.approx(cost(1))
    bench.clock.now += 101  # nobody came: the round is folded all the same, of noise alone
    bench.settle()
    assert bench.version == 2
    assert json.dumps(bench.store.versions(TASK)[-1].n_updates) == "0"
