"""The defences of docs/threat-model.md that are taken out, how, and the tests that must notice.

Laws: ``old`` stands exactly once in its file, so that a mutant that no longer fits is an error and not a pass; each
``row`` is a row of the threat model by its words (``tests/test_threat_model.py`` checks both).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["MUTANTS", "Mutant"]

_INTAKE: Final = "aggregator/core/intake.py"
_TEST_INTAKE: Final = "tests/aggregator/core/test_intake.py"
_COUNTED: Final = f"{_TEST_INTAKE}::test_a_refused_message_is_counted_and_the_round_completes_unharmed"
_ATTACKS: Final = "tests/attacks/test_attacks.py"
_LYING: Final = "tests/protocol/secure_sum/test_lying_server.py"
_STEPS: Final = "tests/edge_agent/trainer/test_private_steps.py"
_BUDGET: Final = "tests/edge_agent/test_sample_budget.py"
_SECOND: Final = "tests/attacks/test_second_signature.py"
_ISSUING: Final = "tests/aggregator/adapters/test_issuing_keys.py"
_SECOND_KEYS: Final = "tests/aggregator/test_second_keys.py"
_REPLAY: Final = "tests/attacks/test_replay.py"
_DEVICE: Final = "protocol/secure_sum/device.py"
_LOCAL_MQTT: Final = "tests/edge_agent/local/test_local_mqtt.py"
_UPLOADS: Final = "tests/aggregator/test_uploads.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One defence taken out: in ``file``, ``old`` becomes ``new``; each of ``tests`` must then fail."""

    name: str
    row: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS: Final = (
    Mutant(
        name="stale",
        row="send long after what it was trained on, or keep an update for later",
        file="aggregator/core/buffer.py",
        old="    return max(restored, oldest)",
        new="    return restored",
        tests=("tests/aggregator/test_async_runner.py::test_what_is_too_stale_is_refused_and_devices_hear_it_before",),
    ),
    Mutant(
        name="litert-operator",
        row="hide custom operators, delegates, calls, variables or offsets that lead elsewhere in a LiteRT file",
        file="protocol/tflite_reader.py",
        old="    if name is None:",
        new="    if False:",
        tests=(f"{_ATTACKS}::test_a_hostile_litert_file_is_refused_for_its_own_reason[the operator CUSTOM]",),
    ),
    Mutant(
        name="signature",
        row="change a byte",
        file="protocol/signing.py",
        old="if not key.verify(envelope.signature, message):",
        new="if False:",
        tests=("tests/protocol/test_signing.py::test_any_flipped_bit_is_refused", f"{_COUNTED}[bad-signature]"),
    ),
    Mutant(
        name="second-signature",
        row="make, change or strip a message of a party that signs twice",
        file="protocol/signing.py",
        old="        return signature is not None and self._second.verify(signature, message)",
        new="        return signature is None or self._second.verify(signature, message)",
        tests=(
            f"{_SECOND}::test_an_update_without_its_devices_second_signature_is_not_taken[left-out]",
            f"{_SECOND}::test_a_device_that_knows_the_services_second_key_believes_nothing_without_it[left-out]",
        ),
    ),
    Mutant(
        name="seal-binding",
        row="use an update for another round, version, task, bundle or device",
        file="protocol/sealing.py",
        old="fleet, task, bundle_id, round_, version, device, update_id])",
        new="fleet, task, bundle_id, round_, version, update_id])",
        tests=(f"{_TEST_INTAKE}::test_a_seal_made_for_another_device_does_not_open",),
    ),
    Mutant(
        name="replay",
        row="repeat an update",
        file=_INTAKE,
        old="if before is not None:",
        new="if False:",
        tests=(f"{_COUNTED}[replayed]",),
    ),
    Mutant(
        name="old-announcement",
        row="repeat an old announcement",
        file="edge_agent/core/session.py",
        old="if not event.is_open or event.round <= state.done.get(event.task, 0):",
        new="if not event.is_open:",
        tests=("tests/edge_agent/test_session.py::test_an_old_announcement_is_not_joined",),
    ),
    Mutant(
        name="rollback",
        row="roll a device back: an announcement or work of an earlier round or version, also after a restart",
        file="edge_agent/core/heard.py",
        old="if round_ < before.round or version < before.version:",
        new="if False:",
        tests=(
            f"{_REPLAY}::test_an_announcement_that_was_only_heard_is_old_after_a_restart",
            f"{_REPLAY}::test_a_later_round_on_an_earlier_version_is_a_rollback",
        ),
    ),
    Mutant(
        name="old-certificate",
        row="give a device its older certificate again",
        file="edge_agent/adapters/identity.py",
        old="if certificates[0].not_valid_after_utc.timestamp() < self.life_unix_s()[1]:",
        new="if False:",
        tests=(f"{_REPLAY}::test_an_older_certificate_does_not_replace_a_newer_one",),
    ),
    Mutant(
        name="sealed-adapter",
        row="read the global adapter, where the task has `seal_adapter`",
        file="aggregator/sealed_adapter.py",
        old="return seal(payload, public_raw=join.seal_key, info=info)",
        new="return payload",
        tests=("tests/aggregator/test_sealed_adapter.py::test_no_message_of_a_sealed_round_holds_the_adapter",),
    ),
    Mutant(
        name="adapter-binding",
        row="read the global adapter, where the task has `seal_adapter`",
        file="protocol/sealing.py",
        old='["edgefold adapter", PROTOCOL_VERSION, fleet, task, bundle_id, round_, version, device]',
        new='["edgefold adapter", PROTOCOL_VERSION, fleet, task, bundle_id, round_, version]',
        tests=("tests/edge_agent/test_adapter_seal.py::test_an_adapter_that_is_bound_to_something_else_is_refused",),
    ),
    Mutant(
        name="no-seal-key",
        row="have the adapter sent unsealed",
        file=_INTAKE,
        old="if view.seal_adapter and (join.seal_key is None or not sealing.can_seal_to(join.seal_key)):",
        new="if False:",
        tests=(
            "tests/aggregator/test_sealed_adapter.py::test_a_join_without_a_key_that_can_be_sealed_to_gets_nothing",
        ),
    ),
    Mutant(
        name="strange-request",
        row="crash the service with a strange certificate request",
        file="host/certificates.py",
        old="    UnsupportedAlgorithm,\n    x509.AttributeNotFound,",
        new="    x509.AttributeNotFound,",
        tests=("tests/fuzz/test_corpus.py::test_what_the_search_kept_is_taken_or_refused_within_the_bounds[request]",),
    ),
    Mutant(
        name="old-task-key",
        row="read updates of earlier rounds that were recorded, where the task has `rotate_key_rounds` or its operator "
        "rotates",
        file="aggregator/adapters/task_keys.py",
        old="                remove(files[begin])\n                self._keys.pop(begin, None)\n",
        new="",
        tests=("tests/aggregator/test_task_keys.py::test_a_destroyed_key_is_gone_and_no_new_first_key_is_made",),
    ),
    Mutant(
        name="sender",
        row="speak for another device",
        file=_INTAKE,
        old="if claimed != envelope.sender:",
        new="if False:",
        tests=(f"{_COUNTED}[wrong-sender]",),
    ),
    Mutant(
        name="once-a-round",
        row="count twice in a round",
        file=_INTAKE,
        old="if ledger.taken_from(update.task, update.round, device) is not None:",
        new="if False:",
        tests=(f"{_COUNTED}[duplicate]",),
    ),
    Mutant(
        name="finite",
        row="send NaN, a wrong shape, a huge message, a huge step",
        file="protocol/codec.py",
        old="            if not np.isfinite(vector[first : first + _CACHED_VALUES]).all():",
        new="            if False:",
        tests=(f"{_COUNTED}[not-finite]", f"{_ATTACKS}::test_a_hostile_vector_is_refused_for_its_own_reason"),
    ),
    Mutant(
        name="norm",
        row="send NaN, a wrong shape, a huge message, a huge step",
        file="aggregator/core/opening.py",
        old="if norm > bound:",
        new="if False:",
        tests=(f"{_COUNTED}[norm-exceeded]",),
    ),
    Mutant(
        name="heads",
        row="exhaust memory with crafted messages",
        file="protocol/cbor.py",
        old="    long = _check_heads(data)\n",
        new="    long: list[_Long] = []\n",
        tests=(f"{_ATTACKS}::test_a_hostile_message_is_refused",),
    ),
    Mutant(
        name="bundle-hash",
        row="change the graph or weights, add a file, point outside the folder",
        file="host/bundle_folder.py",
        old="if digest.hexdigest() != facts.sha256:",
        new="if False:",
        tests=(f"{_ATTACKS}::test_a_spoilt_bundle_is_refused_in_one_line",),
    ),
    Mutant(
        name="unnamed-file",
        row="change the graph or weights, add a file, point outside the folder",
        file="host/bundle_folder.py",
        old="    if unnamed:",
        new="    if False:",
        tests=(f"{_ATTACKS}::test_a_spoilt_bundle_is_refused_in_one_line",),
    ),
    Mutant(
        name="key-mode",
        row="read keys",
        file="host/keys.py",
        old="if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):",
        new="if False:",
        tests=(f"{_ATTACKS}::test_a_key_that_others_can_read_is_refused_with_what_to_do",),
    ),
    Mutant(
        name="token-once",
        row="guess, reuse or keep a token",
        file="aggregator/core/enrolment.py",
        old="if token.device is not None and user != this:",
        new="if False:",
        tests=("tests/aggregator/test_issuance.py::test_a_token_works_for_one_device_with_one_pair_of_keys",),
    ),
    Mutant(
        name="name-taken",
        row="take another device's name, or the service's",
        file="aggregator/core/enrolment.py",
        old='return None if is_own else "name-taken"',
        new="return None",
        tests=(
            "tests/aggregator/test_issuance.py::test_a_name_belongs_to_the_key_that_had_it_first",
            f"{_SECOND_KEYS}::test_a_device_that_enrolled_with_a_second_key_cannot_be_made_one_without[left-out]",
        ),
    ),
    Mutant(
        name="answer-of-claim",
        row="read a token, repeat or redirect a claim, answer in the service's place",
        file="protocol/enrolment.py",
        old="if answer.claim != fingerprint(claim):",
        new="if False:",
        tests=("tests/protocol/test_enrolment.py::test_an_answer_stands_for_its_claim_alone",),
    ),
    Mutant(
        name="revoked",
        row="stay connected, send on",
        file="aggregator/adapters/registry.py",
        old='if record.status == "revoked":',
        new="if False:",
        tests=("tests/aggregator/test_issuance.py::test_a_revoked_device_is_unknown_at_once_and_does_not_come_back",),
    ),
    Mutant(
        name="former-lists",
        row="come back with a certificate by a former issuing key",
        file="aggregator/adapters/authority.py",
        old="self._keys = (present, *former_keys(self._folder, present))",
        new="self._keys = (present,)",
        tests=(f"{_ISSUING}::test_there_is_a_revocation_list_of_each_issuing_key_by_itself",),
    ),
    Mutant(
        name="example-clip",
        row="learn a single example from an update, where the plan has `dp`",
        file="edge_agent/trainer/example_gradients.py",
        old="factor = min(1.0, clip / max(l2_norm(gradient), 1e-300)) * (RADIUS / clip)",
        new="factor = RADIUS / clip\n    return np.trunc(gradient.astype(np.float64) * factor).astype(np.int64)",
        tests=(f"{_STEPS}::test_whatever_an_example_is_its_part_of_the_sum_is_at_most_the_clip",),
    ),
    Mutant(
        name="survivors-agree",
        row="show different survivors to different devices",
        file=_DEVICE,
        old="    _check_agreement(view, unpack(Agreement, data), directory)\n    given",
        new="    given",
        tests=(f"{_LYING}::test_two_sets_of_survivors_shown_to_two_halves_open_nothing",),
    ),
    Mutant(
        name="min-survivors",
        row="shrink the sum",
        file=_DEVICE,
        old=" or len(alive) < view.setting.spec.min_survivors:",
        new=":",
        tests=(f"{_LYING}::test_too_few_survivors_are_refused",),
    ),
    Mutant(
        name="adverts",
        row="take a device's place",
        file=_DEVICE,
        old="    _check_adverts(view, directory)\n",
        new="",
        tests=(f"{_LYING}::test_the_server_cannot_take_a_devices_place",),
    ),
    Mutant(
        name="sample-bound",
        row="ask for round after round, under any task's name, until the noise says nothing",
        file="edge_agent/adapters/sample_record.py",
        old="    if epsilon <= max_epsilon:",
        new="    if epsilon <= 10 * max_epsilon:",
        tests=(
            f"{_BUDGET}::test_what_would_pass_the_owners_bound_is_refused_and_costs_nothing",
            f"{_BUDGET}::test_a_round_beyond_the_bound_is_declined_and_the_status_says_why",
        ),
    ),
    Mutant(
        name="sample-charge",
        row="ask for round after round, under any task's name, until the noise says nothing",
        file="edge_agent/adapters/sample_record.py",
        old="        write_bytes(self._path, cbor.dumps(plain(after)))",
        new="        cbor.dumps(plain(after))",
        tests=(f"{_BUDGET}::test_trainings_of_all_tasks_add_up_to_what_the_accountant_says",),
    ),
    Mutant(
        name="noise-charge",
        row="ask a device for sum after sum, under any task's name",
        file="edge_agent/sums.py",
        old='        if step == "inputs" and (terms',
        new='        if step == "never" and (terms',
        tests=("tests/edge_agent/test_sums.py::test_the_charge_is_on_the_disk_before_the_noisy_vector_can_be_sent",),
    ),
    Mutant(
        name="chunk-hash",
        row="have a chunk of other bytes taken, fill another's upload, or have a whole believed that it may not send",
        file="protocol/uploads.py",
        old="if hashlib.sha256(chunk.data).digest() != upload.hashes[at : at + _HASH_BYTES]:",
        new="if False:",
        tests=(f"{_UPLOADS}::test_a_chunk_of_other_bytes_is_counted_and_not_kept",),
    ),
    Mutant(
        name="upload-work",
        row="fill the service with uploads that never end",
        file="aggregator/core/upload_rules.py",
        old="    of_this_round(device, upload, view, ledger)\n",
        new="",
        tests=(f"{_UPLOADS}::test_a_device_without_work_can_open_nothing",),
    ),
    Mutant(
        name="upload-bound",
        row="fill the service with uploads that never end",
        file="aggregator/adapters/sql_uploads.py",
        old="+ n_bytes > max_bytes:",
        new="+ n_bytes < 0:",
        tests=(f"{_UPLOADS}::test_a_device_has_one_upload_and_all_together_a_bound",),
    ),
    Mutant(
        name="adapter-rate",
        row="have adapters sent to it again and again, or one that waits for its verdict",
        file="aggregator/latest.py",
        old='        if now_s - self._given_s.get(device, float("-inf")) < EVERY_S:',
        new="        if False:",
        tests=("tests/aggregator/test_latest.py::test_an_adapter_is_given_once_in_a_while",),
    ),
    Mutant(
        name="older-latest",
        row="have a device predict with an older or another version",
        file="edge_agent/latest.py",
        old="        if latest.version < max(have, 0 if known is None else known.version):",
        new="        if False:",
        tests=("tests/edge_agent/test_latest.py::test_a_version_that_is_older_than_the_served_one_is_not_believed",),
    ),
    Mutant(
        name="response-topic",
        row="exhaust the agent by that way, or have it publish elsewhere with its rights",
        file="edge_agent/local/local_mqtt.py",
        old="if message.response_topic is not None and not self._is_ours(message.response_topic):",
        new="if False:",
        tests=(f"{_LOCAL_MQTT}::test_over_a_real_broker_answers_go_where_they_are_wanted_and_no_swap_loses_a_request",),
    ),
    Mutant(
        name="metrics-consent",
        row="have a device tell how it learns, against its owner's will or where single devices are to be hidden",
        file="edge_agent/device_metrics.py",
        old="for name in work.metrics if name in allowed}",
        new="for name in work.metrics}",
        tests=("tests/edge_agent/test_device_metrics.py::test_an_owner_who_said_nothing_tells_nothing",),
    ),
)
