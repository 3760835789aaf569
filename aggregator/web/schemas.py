"""JSON Schemas of what the interface answers; a test generator holds every real answer against them."""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "COMMAND",
    "DEVICE",
    "DEVICES",
    "DEVICE_FIGURES",
    "DEVICE_TOKENS",
    "ME",
    "PRIVACY",
    "PROBLEM",
    "REFUSALS",
    "ROUNDS",
    "SERVICE",
    "TASK",
    "TASKS",
    "VERSIONS",
]

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_NUMBER: Final[Schema] = {"type": "number"}
_BOOL: Final[Schema] = {"type": "boolean"}
_COUNTS: Final[Schema] = {"type": "object", "additionalProperties": _COUNT}
_FREE: Final[Schema] = {"type": ["object", "null"]}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_SCORE: Final = _object(accuracy=_NUMBER, loss=_NUMBER, n_examples=_COUNT)
_FIGURES: Final[dict[str, Schema]] = {
    "pooled_accuracy": _or_null(_NUMBER),
    "loss": _or_null(_NUMBER),
    "sets": {"type": "object", "additionalProperties": _SCORE},
}
_OVERVIEW: Final[dict[str, Schema]] = {
    "task": _TEXT,
    "state": {"enum": ["open", "paused", "finished", "stopped"]},
    "bundle_id": _TEXT,
    "strategy": _TEXT,
    "privacy": _TEXT,
    "n_rounds": _or_null(_COUNT),
    "cohort": _or_null(_COUNT),
    "version": _COUNT,
    "measured_version": _or_null(_COUNT),
    **_FIGURES,
    "n_folded": _COUNT,
    "n_updates": _COUNT,
    "bytes_up": _COUNT,
    "bytes_down": _COUNT,
    "round": _or_null(_COUNT),
    "round_state": _or_null(_TEXT),
    "round_n_participants": _COUNT,
    "round_n_updates": _COUNT,
}
COMMAND: Final = _object(
    command=_COUNT,
    task=_TEXT,
    verb=_TEXT,
    version=_or_null(_COUNT),
    status={"enum": ["waiting", "done", "refused"]},
    why=_TEXT,
    asked_unix_s=_NUMBER,
)
ME: Final = _object(name=_TEXT, role={"enum": ["viewer", "operator", "admin"]}, expires_unix_s=_NUMBER)
SERVICE: Final = _object(
    fleet=_TEXT,
    edgefold=_TEXT,
    started_unix_s=_NUMBER,
    now_unix_s=_NUMBER,
    is_turning=_BOOL,
    is_link_up=_BOOL,
    disk_free_bytes=_COUNT,
    devices=_COUNTS,
    refusals_of_no_task=_COUNTS,
)
TASKS: Final = _object(tasks=_list(_object(**_OVERVIEW)))
TASK: Final = _object(**_OVERVIEW, settings=_FREE, evaluation_sets=_list(_TEXT), commands=_list(COMMAND))
ROUNDS: Final = _object(
    rounds=_list(
        _object(
            round=_COUNT,
            version=_COUNT,
            state=_TEXT,
            opened_unix_s=_NUMBER,
            deadline_unix_s=_NUMBER,
            closed_unix_s=_or_null(_NUMBER),
            n_participants=_COUNT,
            n_updates=_COUNT,
            train_s_max=_NUMBER,
            loss=_or_null(_NUMBER),
            bytes_up=_COUNT,
            bytes_down=_COUNT,
        )
    )
)
VERSIONS: Final = _object(
    versions=_list(
        _object(
            version=_COUNT,
            round=_or_null(_COUNT),
            n_updates=_COUNT,
            created_unix_s=_NUMBER,
            status={"enum": ["promoted", "rejected", "candidate"]},
            why=_or_null(_TEXT),
            origin=_or_null(_COUNT),
            **_FIGURES,
        )
    )
)
REFUSALS: Final = _object(refusals=_COUNTS)
PRIVACY: Final = _object(level=_TEXT, secure_sum=_FREE, sample_dp=_FREE, budget=_FREE)
_DEVICE: Final[dict[str, Schema]] = {
    "device": _TEXT,
    "status": {"enum": ["pending", "approved", "revoked", "file"]},
    "since_unix_s": _or_null(_NUMBER),
    "n_joined": _COUNT,
    "n_updates": _COUNT,
    "n_examples": _COUNT,
    "bytes_up": _COUNT,
    "bytes_down": _COUNT,
    "last_seen_unix_s": _or_null(_NUMBER),
}
DEVICES: Final = _object(devices=_list(_object(**_DEVICE)), n_devices=_COUNT, next=_or_null(_TEXT))
DEVICE: Final = _object(
    **_DEVICE,
    verify_key=_or_null(_TEXT),
    signs_twice=_BOOL,
    certificate_serial=_or_null(_TEXT),
    certificate_ends_unix_s=_or_null(_NUMBER),
)
DEVICE_FIGURES: Final = _object(
    figures=_list(_object(round=_COUNT, name=_TEXT, n_devices=_COUNT, mean=_NUMBER, lowest=_NUMBER, highest=_NUMBER))
)
DEVICE_TOKENS: Final = _object(tokens=_list(_TEXT), expires_unix_s=_NUMBER)
PROBLEM: Final = _object(type=_TEXT, title=_TEXT, status={"type": "integer"}, detail=_TEXT)
