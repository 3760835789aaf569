"""A budget becomes a choice: the first rung that fits, with its reason; too small a budget is refused."""

from pathlib import Path

import pytest

from export.quantise import Precision
from export.tiered import share_files
from export.tiers import TIERS, choose, fitting, tiers_of
from protocol.bundle import MemoryPeak
from protocol.errors import ConfigError

MB = 2**20


def _model(whole_mb: int):  # noqa: ANN202 - a fake of the prediction
    def peaks(precision: Precision, checkpoint: bool) -> tuple[MemoryPeak, ...]:  # noqa: FBT001
        part = {"fp32": 1.0, "nb8": 0.4, "nb4": 0.3}[precision]
        each = 1 if checkpoint else 3
        return tuple(
            MemoryPeak(batch=b, seq=s, peak_bytes=int(MB * (60 + part * whole_mb + each * b * s / 32)))
            for b in (1, 2, 4, 8, 16)
            for s in (32, 64, 128)
        )

    return peaks


def test_a_large_device_takes_the_model_as_it_is() -> None:
    choice = choose(TIERS["laptop"], _model(90))
    assert (choice.precision, choice.checkpoint, choice.batch, choice.seq) == ("fp32", False, 16, 128)


def test_a_small_device_gives_up_bits_before_time_and_says_why() -> None:
    choice = choose(TIERS["pi-zero2"], _model(150))
    assert (choice.precision, choice.checkpoint, choice.seq) == ("nb8", False, 128)
    assert choice.peak_bytes <= TIERS["pi-zero2"].budget_bytes
    assert "pi-zero2: nb8, batch 4 x 128 tokens" in choice.reason


def test_a_model_that_fits_nowhere_is_refused_with_the_figure() -> None:
    with pytest.raises(ConfigError, match="choose a smaller model"):
        choose(TIERS["pi-zero2"], _model(4000))


def test_each_tier_gets_the_longest_then_largest_batch_that_fits() -> None:
    peaks = tuple(
        MemoryPeak(batch=batch, seq=seq, peak_bytes=MB * (100 + batch * seq)) for batch in (1, 8) for seq in (32, 64)
    )
    found = {tier.name: peak for tier, peak in fitting(peaks)}
    assert found["pi-zero2"] == peaks[1]  # 1 x 64 of 164 MB, rather than 1 x 32
    assert found["pi4"] == peaks[3]
    assert dict(fitting(tuple(p for p in peaks if p.batch == 8)))[TIERS["pi-zero2"]] is None
    assert fitting(()) == []


@pytest.mark.parametrize("text", ["pi9", "pi4,pi4", ""])
def test_names_that_are_no_tiers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--tier"):
        tiers_of(text)


def test_equal_files_of_two_bundles_are_one_file(tmp_path: Path) -> None:
    for name, rest in (("a", b"x"), ("b", b"y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.bin").write_bytes(b"w" * 100)
        (tmp_path / name / "manifest.json").write_bytes(rest)
    share_files([tmp_path / "a", tmp_path / "b"])
    assert (tmp_path / "a" / "weights.bin").samefile(tmp_path / "b" / "weights.bin")
    assert (tmp_path / "b" / "manifest.json").read_bytes() == b"y"
