"""One fixed value of everything that crosses the wire; its bytes are in ``tests/golden``.

``python -m tests.protocol.samples`` writes the golden files again: only together with a new protocol version.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from protocol import codec
from protocol.bundle import AdapterFacts, EngineFiles, FileFacts, Manifest, ModelFacts, TaskFacts, TokenFacts
from protocol.layout import Layout, TensorSlot
from protocol.messages import (
    Announce,
    Body,
    Certificate,
    Decline,
    Fetch,
    Join,
    Latest,
    Receipt,
    Renew,
    Update,
    UpdateContent,
    Work,
    kind_of,
    pack_body,
    pack_content,
)
from protocol.plan import Codec, Optimizer, Plan
from protocol.sealing import TaskKey, binding, seal, step_binding
from protocol.signing import SERVICE, SigningKey, sign
from protocol.sum_round import SumNext, SumNextName, SumStep, SumStepName, SumTerms
from protocol.uploads import Chunk, Upload, Uploaded

GOLDEN = Path(__file__).parent.parent / "golden"
FLEET = "garden"
DEVICE = "pi-1"
KEY = SigningKey(bytes(range(32)))
TASK_KEY = TaskKey(bytes(range(96)))
BUNDLE_ID = "ab" * 32
UPDATE_ID = bytes(range(16))
BINDING = {
    "fleet": FLEET,
    "task": "mood",
    "bundle_id": BUNDLE_ID,
    "round_": 3,
    "version": 2,
    "device": DEVICE,
    "update_id": UPDATE_ID,
}

VECTOR = np.array([0.0, 1.0, -1.0, 0.5, 0.25, -127.0, 3.0, 1e-3, 2.0, 64.0], np.float32)
CODECS = {name: Codec(name=name, block=8) for name in ("float32", "float16", "int8-block")}

CONTENT = UpdateContent(n_examples=500, n_steps=32, loss=0.25, train_s=1.5, delta=b"\x01\x02")
BODIES: dict[str, Body] = {
    "announce": Announce(task="mood", state="open", round=3, version=2, bundle_id=BUNDLE_ID),
    "join": Join(task="mood", round=3, bundle_id=BUNDLE_ID),
    "work": Work(
        task="mood",
        round=3,
        version=2,
        bundle_id=BUNDLE_ID,
        plan=Plan(optimizer=Optimizer(), codec=Codec(), clip_grad_norm=1.0, seed=2**63 - 1),
        adapter=b"\x00\x01\x02",
        task_key=bytes(range(256)) * 4 + bytes(192),
        seconds_left=60.0,
    ),
    "decline": Decline(task="mood", round=3, reason="not-selected"),
    "update": Update(
        task="mood", round=3, version=2, bundle_id=BUNDLE_ID, update_id=UPDATE_ID, sealed=bytes(range(64))
    ),
    "receipt": Receipt(task="mood", round=3, update_id=UPDATE_ID, status="refused", reason="late"),
    "renew": Renew(request=bytes(range(48))),
    "certificate": Certificate(chain=(bytes(range(40)), bytes(range(44)))),
    "sum-step": SumStep(
        task="mood",
        round=3,
        version=2,
        bundle_id=BUNDLE_ID,
        step="inputs",
        update_id=UPDATE_ID,
        sealed=bytes(range(64)),
    ),
    "sum-next": SumNext(
        task="mood",
        round=3,
        step="roster",
        message=bytes(range(32)),
        certificates=(bytes(range(40)), bytes(range(41))),
        issuers=(bytes(range(42)),),
    ),
    "upload": Upload(
        task="mood",
        round=3,
        version=2,
        bundle_id=BUNDLE_ID,
        update_id=UPDATE_ID,
        n_bytes=5000,
        digest=bytes(range(32)),
        chunk_bytes=4096,
        hashes=bytes(range(64)),
    ),
    "fetch": Fetch(task="mood", bundle_id=BUNDLE_ID, version=2),
    "latest": Latest(
        task="mood",
        version=3,
        bundle_id=BUNDLE_ID,
        plan=Plan(optimizer=Optimizer(), codec=Codec(), seed=7),
        adapter=b"\x00\x01\x02",
    ),
    "chunk": Chunk(update_id=UPDATE_ID, index=1, data=bytes(range(48))),
    "uploaded": Uploaded(update_id=UPDATE_ID, status="open", have=b"\x01"),
}
SUM_TERMS = SumTerms(
    clip=1.0,
    weight_cap=1000,
    input_bits=16,
    min_cohort=3,
    max_cohort=100,
    corrupt_fraction=0.05,
    dropout_fraction=0.1,
    server="lying",
)

LAYOUT = Layout(
    tensors=(
        TensorSlot(name="layer.0.query.lora_A", shape=(2, 3), offset=0, role="lora_A", layer=0, scale=2.0),
        TensorSlot(name="layer.0.query.lora_B", shape=(3, 2), offset=6, role="lora_B", layer=0, scale=2.0),
        TensorSlot(name="classifier.bias", shape=(2,), offset=12, role="head"),
    )
)
FILES = {name: bytes([i]) * 8 for i, name in enumerate(("parity.json", "tokenizer.json", "train.onnx", "eval.onnx"))}


def manifest(**changes: object) -> Manifest:
    """Return a manifest that names five files."""
    names = ("layout.json", "parity.json", "tokenizer.json", "train.onnx", "eval.onnx")
    files = {name: FileFacts(bytes=8, sha256="0" * 64) for name in names}
    files["adapter.f32"] = FileFacts(bytes=56, sha256="1" * 64)
    values: dict[str, object] = {
        "model": ModelFacts(source="sample", family="bert", n_parameters=1000),
        "task": TaskFacts(kind="text-classification", n_labels=2),
        "adapter": AdapterFacts(kind="lora", n_params=14, rank=2, alpha=4.0, targets=("query",)),
        "engines": {"portable": EngineFiles(train="train.onnx", evaluate="eval.onnx", opset=17)},
        "tokens": TokenFacts(file="tokenizer.json", pad_id=0, max_tokens=64),
        "files": files,
        "tools": {"edgefold": "0.1.0"},
    }
    return Manifest(**(values | changes))  # type: ignore[arg-type]


def sender_of(body: Body) -> str:
    """Return who sends such a message."""
    return DEVICE if kind_of(body) in ("join", "update", "renew", "sum-step", "upload", "chunk", "fetch") else SERVICE


def _sum_bodies() -> dict[str, Body]:
    """Return each step of a secure sum, each answer, and work that asks for one."""
    step, following = cast("SumStep", BODIES["sum-step"]), cast("SumNext", BODIES["sum-next"])
    steps: tuple[SumStepName, ...] = SumStepName.__args__  # type: ignore[attr-defined]  # Literal's choices
    answers: tuple[SumNextName, ...] = SumNextName.__args__  # type: ignore[attr-defined]
    bodies: dict[str, Body] = {f"sum-step-{one}": replace(step, step=one) for one in steps}
    bodies |= {f"sum-next-{one}": replace(following, step=one, certificates=(), issuers=()) for one in answers}
    bodies["work-secure-sum"] = replace(cast("Work", BODIES["work"]), secure_sum=SUM_TERMS)
    return bodies


def golden_values() -> dict[str, bytes]:
    """Return the bytes of every sample that encodes to the same bytes each time."""
    values = {f"body-{kind}": pack_body(body) for kind, body in BODIES.items()}
    values |= {
        f"envelope-{kind}": sign(body, fleet=FLEET, sender=sender_of(body), key=KEY) for kind, body in BODIES.items()
    }
    values |= {f"body-{name}": pack_body(body) for name, body in _sum_bodies().items()}
    values["binding-sum-step"] = step_binding(fleet=FLEET, device=DEVICE, step=cast("SumStep", BODIES["sum-step"]))
    values |= {f"codec-{name}": codec.encode(VECTOR, one) for name, one in CODECS.items()}
    values["content"] = pack_content(CONTENT)
    values["binding"] = binding(**BINDING)  # type: ignore[arg-type]
    values["key-public"] = KEY.public.raw
    values["task-key-public"] = TASK_KEY.public_raw
    values["layout"] = LAYOUT.to_bytes()
    values["manifest"] = manifest().to_bytes()
    return values


def write_golden() -> None:
    """Write all golden files."""
    sealed = seal(pack_content(CONTENT), public_raw=TASK_KEY.public_raw, info=binding(**BINDING))  # type: ignore[arg-type]
    for name, value in (golden_values() | {"sealed": sealed}).items():
        (GOLDEN / f"{name}.v1.hex").write_text(value.hex() + "\n", "ascii")


def golden(name: str) -> bytes:
    """Return the bytes of one golden file."""
    return bytes.fromhex((GOLDEN / f"{name}.v1.hex").read_text("ascii"))


if __name__ == "__main__":
    write_golden()
