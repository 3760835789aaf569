from __future__ import annotations

import tomllib
from pathlib import Path

from deploy.flash.wheels import WheelPlatform, device_requirements, pip_arguments

ROOT = Path(__file__).parents[3]


def test_a_device_gets_the_base_dependencies_and_what_they_need_but_no_torch_and_no_hub() -> None:
    pins = dict(line.split("==") for line in device_requirements("aarch64"))
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {line.split("==")[0].split(">=")[0] for line in base} <= set(pins)
    assert {"cffi", "protobuf", "flatbuffers"} <= set(pins)  # imported by those
    assert not {"torch", "transformers", "sqlalchemy", "huggingface-hub", "sympy"} & set(pins)


def test_pins_are_the_tested_versions() -> None:
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {line for line in base if "==" in line} <= set(device_requirements("x86_64"))


def test_wheels_are_for_the_device_and_never_built_here() -> None:
    options = pip_arguments(WheelPlatform(machine="aarch64", python="3.11"))
    assert "--only-binary=:all:" in options
    assert "--platform=manylinux2014_aarch64" in options
    assert {"--abi=cp311", "--abi=abi3", "--abi=none"} <= set(options)
    assert not [one for one in options if "x86_64" in one]
