"""A whole service in memory and on a temporary folder, and devices that talk to it: what the aggregator's tests share.

``Bench`` builds the real service (real database, blobs, signatures, seals) on ``host.memory_link`` with a clock of the
test's own and an evaluator that answers at once; ``Bench.restart`` drops every object and builds it again from the
folder.
``Device`` speaks the device's half of the protocol.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import shutil
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from aggregator.adapters.sql_database import upgrade_database
from aggregator.adapters.sql_lifecycle import SqlLifecycle
from aggregator.adapters.sql_retention import SqlRetention
from aggregator.adapters.sql_staging import SqlStaging
from aggregator.adapters.sql_store import SqlStore
from aggregator.adapters.sql_sums import SqlSums
from aggregator.adapters.sql_uploads import SqlUploads
from aggregator.app import Parts, Service
from aggregator.blob_place import open_blobs
from aggregator.config import TaskEvaluation, TaskSettings
from aggregator.conversation import Conversation
from aggregator.core.privacy.accounting import epsilon_of, noise_for
from aggregator.created_tasks import to_settings
from aggregator.evaluations import Evaluations
from aggregator.folders import Folders
from aggregator.ingest_settings import service_filters
from aggregator.retention import Retention
from aggregator.retention_settings import RetentionSettings
from aggregator.runner import make_runner
from aggregator.setup import open_task
from aggregator.staged_desk import StagedDesk
from aggregator.steering import LOOK_EVERY_S, Steering
from aggregator.sum_round import SumParts
from aggregator.task_setup import World
from aggregator.upload_settings import UploadSettings
from aggregator.uploads import UploadDesk
from host.link import Received
from host.memory_link import MemoryBroker
from protocol import codec, sealing, signing, topics
from protocol.bundle import (
    ADAPTER,
    LAYOUT,
    MANIFEST,
    PARITY,
    AdapterFacts,
    EngineFiles,
    FileFacts,
    Manifest,
    ModelFacts,
    TaskFacts,
    TokenFacts,
)
from protocol.errors import RemoteProtocolError
from protocol.jobs import EvaluateResult, SetResult
from protocol.layout import Layout, TensorSlot
from protocol.messages import Join, Receipt, Update, UpdateContent, Work, pack_content, unpack_envelope
from protocol.plan import Codec, Optimizer, Plan
from tests.protocol.onnx_bytes import GRAPH
from tests.protocol.open_base_files import open_base_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from aggregator.adapters.engines import PostgresDatabase
    from aggregator.blob_settings import ObjectPlace
    from aggregator.core.lifecycle import Verb
    from aggregator.core.privacy.ledger import Step
    from aggregator.ports import EvaluationRequest
    from aggregator.runner import Runner
    from host.link import Link
    from protocol.errors import EdgefoldError
    from protocol.messages import Body

FLEET = "test"
TASK = "sentiment"
N_PARAMS = 96
PLAN = Plan(optimizer=Optimizer(), codec=Codec(name="int8-block", block=16), clip_update_norm=1.0, seed=7)

B = TypeVar("B")


def make_bundle(
    folder: Path,
    *,
    n_params: int = N_PARAMS,
    seed: int = 0,
    layout: Layout | None = None,
    kind: str = "text-classification",
    has_open_base: bool = False,
) -> Path:
    """Write a bundle that is valid except that its graphs compute nothing; without a layout it is a head."""
    folder.mkdir(parents=True)
    if layout is None:
        layout = Layout(tensors=(TensorSlot(name="head", shape=(n_params,), offset=0, role="head"),))
    n_params = layout.n_params
    adapter = np.random.default_rng(seed).normal(0, 0.1, n_params).astype("<f4")
    contents = {
        LAYOUT: layout.to_bytes(),
        ADAPTER: adapter.tobytes(),
        PARITY: b"{}\n",
        "tokenizer.json": b"{}\n",
        "train.onnx": GRAPH,
        "eval.onnx": GRAPH,
    }
    if has_open_base:
        contents |= open_base_files(layout)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    manifest = Manifest(
        model=ModelFacts(source="dummy", family="bert", n_parameters=1000),
        task=TaskFacts(kind=kind, n_labels=2),
        adapter=AdapterFacts(kind="lora", n_params=n_params),
        engines={"portable": EngineFiles(train="train.onnx", evaluate="eval.onnx", opset=20)},
        tokens=TokenFacts(file="tokenizer.json", pad_id=0, max_tokens=64),
        files={n: FileFacts(bytes=len(d), sha256=hashlib.sha256(d).hexdigest()) for n, d in contents.items()},
        tools={},
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return folder


class ManualClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def unix_s(self) -> float:
        return 1_700_000_000.0 + self.now

    def monotonic_s(self) -> float:
        return self.now


class FakeEvaluator:
    """Answers at once; ``fails`` makes the next evaluations fail."""

    def __init__(self) -> None:
        self.versions: list[int] = []
        self.requests: list[EvaluationRequest] = []
        self.fails: list[EdgefoldError] = []

    def start(self, request: EvaluationRequest, on_end: Callable[[EvaluateResult | EdgefoldError], None]) -> None:
        self.versions.append(request.version)
        self.requests.append(request)
        if self.fails:
            on_end(self.fails.pop())
            return
        sets = {name: SetResult(n_examples=10, n_correct=5 + i, loss=0.5) for i, name in enumerate(request.sets)}
        on_end(EvaluateResult(sets=sets, wall_s=0.1, peak_memory_bytes=1))

    def close(self) -> None:
        pass


class DirectAccountant:
    """The accountant without a process of its own."""

    def epsilon(self, steps: Sequence[Step], *, delta: float) -> float:
        return _epsilon(tuple(steps), delta)

    def noise(
        self, spent: Sequence[Step], *, n_rounds: int, sampling_rate: float, epsilon: float, delta: float
    ) -> float | None:
        return noise_for(spent, n_rounds=n_rounds, sampling_rate=sampling_rate, epsilon=epsilon, delta=delta)


@functools.cache
def _epsilon(steps: tuple[Step, ...], delta: float) -> float:
    return epsilon_of(steps, delta=delta)


class Devices(dict[str, signing.VerifyKey]):
    """The registry as a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.revoked: set[str] = set()

    def key_of(self, device: str) -> signing.VerifyKey | None:
        if device in self.revoked:
            raise RemoteProtocolError("revoked", reason="revoked")
        return self.get(device)


class Device:
    """A device's half of the conversation, on a memory link."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.name, self.bench = name, bench
        self.key = self.key_of(name)
        filters = [topics.all_announcements(FLEET), topics.my_down(FLEET, name)]
        self.link = bench.broker.link(filters)
        self.inbox: list[Body] = []

    @staticmethod
    def key_of(name: str) -> signing.SigningKey:
        """Return the key of the device of that name."""
        return signing.SigningKey(hashlib.sha256(name.encode()).digest())

    def publish(self, body: Body, kind: str, *, key: signing.SigningKey | None = None) -> bytes:
        """Send a signed body on this device's topic; return the message."""
        payload = signing.sign(body, fleet=FLEET, sender=self.name, key=key or self.key)
        self.link.publish(topics.up(FLEET, self.name, kind), payload)
        return payload

    def join(self, round_: int | None = None, **changes: Any) -> None:
        """Offer to take part."""
        number = self.bench.round if round_ is None else round_
        join = Join(task=TASK, round=number, bundle_id=self.bench.bundle_id)
        self.publish(dataclasses.replace(join, **changes), "join")

    def update(self, *, seed: int = 0, **facts: Any) -> Update:
        """Seal and send an update for the last work; return it."""
        update = self.make_update(seed=seed, **facts)
        self.publish(update, "update")
        return update

    def make_update(
        self,
        *,
        seed: int = 0,
        delta: NDArray[np.float32] | None = None,
        payload: bytes | None = None,
        content: bytes | None = None,
        n_examples: int = 10,
        work: Work | None = None,
        metrics: dict[Any, float] | None = None,
        **changes: Any,
    ) -> Update:
        """Return an update for ``work``, by default the last: any step of it can be replaced."""
        work = work or self.last(Work)
        rng = np.random.default_rng([seed, work.round, *self.name.encode()])
        if delta is None:
            delta = rng.normal(0, 0.05, N_PARAMS).astype(np.float32)
        encoded = payload if payload is not None else codec.encode(delta, work.plan.codec)
        figures = UpdateContent(
            n_examples=n_examples, n_steps=3, loss=0.5, train_s=0.25, delta=encoded, metrics=metrics
        )
        facts: dict[str, Any] = {
            "task": work.task,
            "round": work.round,
            "version": work.version,
            "bundle_id": work.bundle_id,
            "update_id": rng.bytes(16),
        }
        bound = {**facts, **changes}
        bound["round_"] = bound.pop("round")
        info = sealing.binding(fleet=FLEET, device=self.name, **bound)
        packed = pack_content(figures) if content is None else content
        sealed = sealing.seal(packed, public_raw=work.task_key, info=info)
        return Update(**{**facts, **changes}, sealed=sealed)

    def read(self) -> list[Body]:
        """Take what came, its signature checked; return everything that ever came."""
        while (message := self.link.receive(0)) is not None:
            if isinstance(message, Received):
                envelope = unpack_envelope(message.payload)
                self.inbox.append(signing.open_envelope(envelope, fleet=FLEET, key=self.bench.service_key.public))
                self.link.acknowledge(message)
        return self.inbox

    def all(self, cls: type[B]) -> list[B]:
        """Return everything of one kind that came."""
        return [body for body in self.read() if isinstance(body, cls)]

    def last(self, cls: type[B]) -> B:
        """Return the newest of one kind."""
        return self.all(cls)[-1]

    def receipts(self) -> list[tuple[str, str | None]]:
        """Return status and reason of every receipt."""
        return [(receipt.status, receipt.reason) for receipt in self.all(Receipt)]


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of the service may catch it."""


@dataclasses.dataclass
class Hooks:
    """Called before and after each effect of the service; raising there is a kill at that point."""

    before: Callable[[str], None] = lambda _name: None
    after: Callable[[str], None] = lambda _name: None
    n_effects: int = 0  # since ``count``

    def count(self) -> None:
        """Count the effects from now on."""
        self.n_effects = 0

        def one(_name: str) -> None:
            self.n_effects += 1

        self.before = one

    def kill(self, when: str, left: int) -> None:
        """Kill before or after an effect, as ``when`` says: ``left`` of them go well first."""

        def count(_name: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError

        setattr(self, when, count)

    def spare(self) -> None:
        """Kill no more."""
        self.before = self.after = lambda _name: None


class Hooked:
    """A port whose named methods tell the hooks."""

    def __init__(self, inner: object, names: tuple[str, ...], hooks: Hooks) -> None:
        self._inner, self._names, self._hooks = inner, names, hooks

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in self._names:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self._hooks.before(name)
            result = method(*args, **kwargs)
            self._hooks.after(name)
            return result

        return call


LIFECYCLE_EFFECTS = ("apply", "done", "refuse")
STORE_EFFECTS = (
    "add_task",
    "join",
    "accept",
    "refuse",
    "start_closing",
    "charge",
    "fold",
    "carry_over",
    "abandon",
    "finish",
    "open_round",
    "add_evaluation",
)
RETENTION_EFFECTS = ("retire_versions", "retire_rounds", "retire_updates")
SUM_EFFECTS = ("accept", "close_step", "forget")
UPLOAD_EFFECTS = ("begin", "put", "drop", "expire")
STAGING_EFFECTS = ("stage", "refuse", "done", "set_terms")
BLOB_EFFECTS = ("put", "remove")
LINK_EFFECTS = ("publish", "acknowledge")


class Bench:
    """The service under test and its world."""

    def __init__(
        self,
        folder: Path,
        *,
        template: Path | None = None,
        server: PostgresDatabase | None = None,
        blobs: ObjectPlace | None = None,
        has_workers: bool = False,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.bundle = folder / "bundle"
        if not self.bundle.exists():
            make_bundle(self.bundle)
        self.folders = Folders(root=folder / "state", server=server, blobs_elsewhere=blobs)
        self.folders.root.mkdir(exist_ok=True)
        if template is not None and not self.folders.has_database:
            shutil.copyfile(template, self.folders.root / "aggregator.db")
        self.settings = task_settings(self.bundle, **settings)
        self.broker, self.clock, self.evaluator, self.hooks = MemoryBroker(), ManualClock(), FakeEvaluator(), Hooks()
        self.devices = Devices()
        self.service_key = signing.SigningKey(bytes(32))
        self.has_workers = has_workers  # that take updates in: tests.aggregator.ingest_bench
        self.link = self.broker.link(service_filters(FLEET, has_workers=has_workers)[0])
        self.keep_folded_updates = True
        self.retention = RetentionSettings()
        self.uploads = UploadSettings()
        self.chain_of: Callable[[str], tuple[bytes, ...]] | None = None
        self.service: Service
        self.world: World
        self.store: SqlStore
        self.start()

    def start(self) -> None:
        """Build the service from the folder."""
        upgrade_database(self.folders.database)
        self.store = SqlStore(self.folders.database)
        self.sums = SqlSums(self.folders.database)
        blobs = open_blobs(self.folders.blobs)
        blobs.keep_only(self.store.blobs_in_use(keep_folded=self.keep_folded_updates))
        self.blobs = blobs
        hooked_store: Any = Hooked(self.store, STORE_EFFECTS, self.hooks)
        hooked_blobs: Any = Hooked(blobs, BLOB_EFFECTS, self.hooks)
        self.lifecycle = SqlLifecycle(self.folders.database)
        hooked_lifecycle: Any = Hooked(self.lifecycle, LIFECYCLE_EFFECTS, self.hooks)
        hooked_link: Any = Hooked(self.link, LINK_EFFECTS, self.hooks)
        self.world = world = World(
            store=hooked_store,
            lifecycle=hooked_lifecycle,
            blobs=hooked_blobs,
            clock=self.clock,
            conversation=Conversation(fleet=FLEET, key=self.service_key),
            accountant=DirectAccountant(),
            draw_secret=self._draw_secret,
            keep_folded_updates=self.keep_folded_updates,
            sums=SumParts(
                store=Hooked(self.sums, SUM_EFFECTS, self.hooks),  # type: ignore[arg-type]  # stands in for it
                directory=self.devices,
                chain_of=self.chain_of,
            ),
        )
        self.setup = open_task(self.settings, self.folders, make_key=True)
        self.retention_rows = SqlRetention(self.folders.database)
        hooked_rows: Any = Hooked(self.retention_rows, RETENTION_EFFECTS, self.hooks)
        retention = Retention(
            hooked_rows,
            store=self.store,
            lifecycle=self.lifecycle,
            blobs=hooked_blobs,
            default=self.retention,
            keep_folded_updates=self.keep_folded_updates,
        )
        self.staging = SqlStaging(self.folders.database)
        hooked_staging: Any = Hooked(self.staging, STAGING_EFFECTS, self.hooks)
        staged = StagedDesk(hooked_staging, hooked_blobs, keep_folded_updates=self.keep_folded_updates)
        self.upload_rows = SqlUploads(self.folders.database)
        hooked_uploads: Any = Hooked(self.upload_rows, UPLOAD_EFFECTS, self.hooks)
        uploads = UploadDesk(self.uploads, store=hooked_uploads, conversation=world.conversation, clock=self.clock)
        link: Link = hooked_link
        self.runner: Any = make_runner(self.setup, self.world)  # tests look into it
        self.evaluations = Evaluations(self.evaluator, hooked_store)
        parts = Parts(
            world=world,
            link=link,
            devices=self.devices,
            runners=[self.runner],
            evaluations=self.evaluations,
            steering=Steering(hooked_lifecycle, self.open_created),
            retention=retention,
            uploads=uploads,
            staged=staged if self.has_workers else None,
        )
        self.service = Service(parts)
        self.service.start()

    def _draw_secret(self, n_bytes: int) -> bytes:
        """Draw what is the same for the same round, however often the service was killed."""
        return hashlib.sha256(f"{self.round} {n_bytes}".encode()).digest()[:n_bytes]

    def open_created(self, task: str) -> Runner:
        """Open a created task as the workshop does."""
        (record,) = [one for one in self.lifecycle.created() if one.task == task]
        return make_runner(open_task(to_settings(record), self.folders, make_key=True), self.world)

    def command(self, verb: Verb, version: int | None = None) -> tuple[str, str]:
        """Ask for something as the command line does, let the service look, and return what came of it."""
        number = self.lifecycle.ask(TASK, verb, version=version, unix_s=self.clock.unix_s())
        self.clock.now += LOOK_EVERY_S
        self.settle()
        self.settle()  # what it changed is acted on
        record = self.lifecycle.command(number)
        return record.status, record.why

    def stop(self) -> None:
        """Drop the service as a kill does: nothing is said to anybody."""
        self.blobs.close()
        self.store.close()
        self.sums.close()
        self.lifecycle.close()
        self.retention_rows.close()
        self.upload_rows.close()
        self.staging.close()

    def restart(self) -> None:
        """Kill the service and start it again on the same folder; unacknowledged messages come again."""
        self.stop()
        while self.link.receive(0) is not None:
            pass
        self.link.connected()
        self.start()

    def device(self, name: str) -> Device:
        """Return a new device that is in the registry."""
        device = Device(self, name)
        self.devices[name] = device.key.public
        return device

    def settle(self) -> None:
        """Let the service take all events."""
        while self.service.step(0):
            pass

    def play(self, *devices: Device, rounds: int = 1) -> None:
        """Let the devices take part, undisturbed."""
        for _ in range(rounds):
            for device in devices:
                device.join()
                self.settle()
            for device in devices:
                device.update()
                self.settle()

    @property
    def blob_folder(self) -> Path:
        """Where blobs lie, unless they are elsewhere."""
        return self.folders.root / "blobs"

    @property
    def bundle_id(self) -> str:
        return self.setup.bundle.id

    @property
    def round(self) -> int:
        """The latest round's number."""
        return self.store.latest_round(TASK).round

    @property
    def round_state(self) -> str:
        return self.store.latest_round(TASK).state

    @property
    def version(self) -> int:
        return self.store.latest_version(TASK).version

    def refusals(self) -> Mapping[str, int]:
        """Return all counted refusals."""
        counted: dict[str, int] = dict(self.store.refusals(""))
        for reason, count in self.store.refusals(TASK).items():
            counted[reason] = counted.get(reason, 0) + count
        return counted

    def adapter_bytes(self, version: int | None = None) -> bytes:
        """Return the bytes of a version's adapter, the newest by default."""
        return self.runner.versions.adapter(self.version if version is None else version).tobytes()

    def folded_ids(self) -> list[bytes]:
        """Return the ids of the updates in versions, by version and device."""
        rounds = [one.round for one in self.store.versions(TASK) if one.round is not None]
        return [update.update_id for number in rounds for update in self.store.updates(TASK, number)]


def task_settings(bundle: Path, **changes: Any) -> TaskSettings:
    """Return the settings of the test's task: two devices a round, both needed."""
    settings = TaskSettings(
        id=TASK,
        bundle=str(bundle),
        rounds=2,
        cohort=2,
        min_cohort=2,
        deadline_s=100.0,
        max_examples=1000,
        plan=PLAN,
    )
    return dataclasses.replace(settings, **changes)


def evaluation_sets(folder: Path) -> TaskEvaluation:
    """Return two held-out sets that exist."""
    for name in ("tweets", "films"):
        with contextlib.suppress(FileExistsError):
            (folder / f"{name}.jsonl").touch()
    return TaskEvaluation(sets={name: str(folder / f"{name}.jsonl") for name in ("tweets", "films")})
