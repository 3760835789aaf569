"""``make test-image``: an image is built, started in QEMU, let in, trains, loses its power, and takes part again.

The service is real: its own authority, Mosquitto with mutual TLS, an aggregator, on this machine's loopback, which
the virtual machine reaches as 10.0.2.2. Workflow: fleet -> bundle -> image -> boot -> enrolment -> a folded update ->
power cut in the middle of the next training -> boot -> that round and one more are folded -> what is on the disk.
Prints one line a step with its time, then a table; ``result.json`` beside the logs has the same.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy.flash import image_plan, virtual_machine
from deploy.flash.programs import require_programs
from deploy.flash.settings import make_setup
from deploy.flash.targets import target_named
from deploy.flash.trial_service import edgefold, make_tokens, start_service, wait_for
from deploy.flash.virtual_machine import VirtualMachine
from deploy.flash.workshop import carry_out
from protocol.errors import EdgefoldError, EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.supervised import Supervised

__all__ = ["main"]

_DEVICE: Final = "trial-pi"
_TASK: Final = "sentiment"
_ROUNDS: Final = 3
_BATCH, _MAX_TOKENS, _EXAMPLES = 8, 16, 16  # two steps a round: an emulated step takes tens of seconds
_CARD_BYTES: Final = 256 << 20  # a card is larger than its image: the data partition grows at the first boot
_BOOT_S: Final = 400.0  # 25 s on a quiet machine, minutes on a busy one
_ROUND_S: Final = 900.0
_WORDS: Final = (("poor", "dull", "broken", "slow"), ("fine", "bright", "solid", "quick"))


class Trial:
    """One run in one folder."""

    def __init__(self, folder: Path, *, bundle: Path | None) -> None:
        """Begin; the folder is emptied."""
        self.started_s = time.monotonic()
        self.folder, self._bundle = folder.resolve(), bundle
        self.figures: dict[str, Any] = {}
        shutil.rmtree(folder, ignore_errors=True)
        (self.folder / "work").mkdir(parents=True)

    def say(self, text: str) -> None:
        """Tell what happened, and when."""
        print(f"{time.monotonic() - self.started_s:7.1f} s  {text}", flush=True)  # noqa: T201 - a command that prints

    def bundle(self) -> Path:
        """Return the bundle that was given, or MiniLM exported at a small shape."""
        if self._bundle is not None:
            return self._bundle
        made = self.folder / "bundle"
        options = ("--labels", "2", "--rank", "4", "--max-tokens", str(_MAX_TOKENS), "--out", str(made))
        edgefold("export", "minilm", *options)
        self.say("MiniLM is exported")
        return made

    def make_fleet(self, bundle: Path) -> tuple[Supervised, str]:
        """Return a running service, and a token."""
        plan = {"epochs": 1, "batch_size": _BATCH, "max_tokens": _MAX_TOKENS}
        task = {"id": _TASK, "bundle": str(bundle.resolve()), "rounds": _ROUNDS, "cohort": 1, "min_cohort": 1}
        service, config = start_service(self.folder, task={**task, "deadline_s": _ROUND_S, "plan": plan})
        return service, make_tokens(config, 1)[0]

    def make_image(self, token: str) -> Path:
        """Return an image for the device; it fetches its bundle itself."""
        examples = self.folder / "examples.jsonl"
        examples.write_text(_examples(), "utf-8")
        setup = make_setup(device=_DEVICE, token=token, examples=examples, data_mb=512)
        image = self.folder / "device.img"
        programs = require_programs(image_plan.PROGRAMS)
        work = self.folder / "work"
        carry_out(image_plan.image_steps(target_named("qemu-virt"), setup, work=work, out=image, programs=programs))
        self.figures["agent_installed_mb"] = round(_size_of(work / "root/opt/edgefold") / 1e6, 1)
        self.figures["image_mb"] = round(image.stat().st_size / 1e6)
        with image.open("r+b") as file:
            file.truncate(image.stat().st_size + _CARD_BYTES)
        return image

    def run(self) -> None:
        """Do all of it.

        Raises:
            EdgefoldError: something did not happen; the line says what.
        """
        bundle = self.bundle()
        service, token = self.make_fleet(bundle)
        flash_s = time.monotonic()
        machine = None
        try:
            image = self.make_image(token)
            self.figures["flash_s"] = round(time.monotonic() - flash_s, 1)
            self.say(f"image is built: the agent takes {self.figures['agent_installed_mb']} MB")
            machine = VirtualMachine(image, self.folder, command_line=target_named("qemu-virt").command_line)
            self._first_boot(machine, service, flash_s)
            self._power_cut(machine, service)
        finally:
            if machine is not None:
                machine.cut_power()
            service.stop()
        self._look_at_disk(image, token)

    def _first_boot(self, machine: VirtualMachine, service: Supervised, flash_s: float) -> None:
        machine.start()
        boot_s = time.monotonic()
        machine.wait_for("link-up", deadline_s=_BOOT_S)
        self.figures["boot_to_link_s"] = round(time.monotonic() - boot_s, 1)
        self.say("first boot: enrolled and connected over mutual TLS")
        wait_for(service, "round-opened", deadline_s=_ROUND_S, version=1)
        self.figures["flash_to_first_folded_update_s"] = round(time.monotonic() - flash_s, 1)
        self.say("its first update is folded")

    def _power_cut(self, machine: VirtualMachine, service: Supervised) -> None:
        machine.wait_for("training-started", deadline_s=_ROUND_S)
        time.sleep(2.0)
        machine.cut_power()
        self.say("power cut while it trains; switched on again")
        machine.start()
        machine.wait_for("link-up", deadline_s=_BOOT_S)
        self.say("second boot: connected again, without its token")
        wait_for(service, "task-finished", deadline_s=2 * _ROUND_S)
        self.say(f"rounds 2 and {_ROUNDS} are folded too")

    def _look_at_disk(self, image: Path, token: str) -> None:
        """Check that nothing of the token is left on the disk, and keys are."""
        secret = token.encode()[-32:]
        with image.open("rb") as file:
            before = b""
            while chunk := file.read(1 << 24):
                if secret in before + chunk:
                    raise EngineError("the token is still on the disk")
                before = chunk[-len(secret) :]
        self.say("no byte of the token is left on the disk")

    def report(self) -> None:
        """Print the figures and keep them."""
        self.figures["whole_s"] = round(time.monotonic() - self.started_s, 1)
        for name, value in self.figures.items():
            print(f"{name:32} {value}")  # noqa: T201 - a command that prints
        (self.folder / "result.json").write_text(json.dumps(self.figures, indent=2) + "\n", "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial; 0 if all went well."""
    parser = argparse.ArgumentParser(description="Build an image, start it in QEMU, train, cut its power, go on.")
    parser.add_argument("--folder", type=Path, default=Path("out/test-image"))
    parser.add_argument("--bundle", type=Path, help="a bundle of two labels; MiniLM is exported without it")
    options = parser.parse_args(arguments)
    try:
        require_programs((*image_plan.PROGRAMS, *virtual_machine.PROGRAMS, "mosquitto"))
        trial = Trial(options.folder, bundle=options.bundle)
        trial.run()
        trial.report()
    except EdgefoldError as error:
        print(f"test-image: {error}", file=sys.stderr)  # noqa: T201 - a command that prints
        return 1
    return 0


def _examples() -> str:
    rng = random.Random(5)  # noqa: S311 - data for a trial
    rows = [{"text": " ".join(rng.choices(_WORDS[label := i % 2], k=6)), "label": label} for i in range(_EXAMPLES)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
