"""Times the functions of Flower's secure aggregation; run by ``bench_secure_sum`` in an environment of Flower's own.

Imports flwr and numpy only. Reads a JSON object a line (n, shares, threshold, n_params, n_dropped), writes one a line.
The steps are those of Flower's SecAgg+ client and workflow, called in their order, without its messages and logs. All
devices share the same two secrets, since what combining costs does not depend on them; where more than ``SAMPLE``
secrets of one kind are to be combined, ``SAMPLE`` are timed and the time is scaled, since they are combined one by one.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

CLIP, LEVELS, MODULUS = 8.0, 2**22, 2**32  # Flower's defaults
SAMPLE = 2


def keys() -> tuple[bytes, bytes]:
    """Return one key pair as bytes."""
    private, public = generate_key_pairs()
    return private_key_to_bytes(private), public_key_to_bytes(public)


def time_client(case: dict[str, int], vector: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """Return the seconds of one client in all stages, and its masked vector."""
    (_, public), n_near = keys(), case["shares"] - 1
    start = time.perf_counter()
    (mask_private, _), (seal_private, _) = keys(), keys()
    seed = os.urandom(32)
    seed_shares = create_shares(seed, case["threshold"], case["shares"])
    key_shares = create_shares(mask_private, case["threshold"], case["shares"])
    sealed = []
    for i in range(n_near):
        key = generate_shared_key(bytes_to_private_key(seal_private), bytes_to_public_key(public))
        sealed.append((key, encrypt(key, share_keys_plaintext_concat(0, i, seed_shares[i], key_shares[i]))))
    for key, one in sealed:
        decrypt(key, one)
    scaled = factor_combine(1000, quantize(parameters_multiply([vector], 0.5), CLIP, LEVELS))
    shapes = [one.shape for one in scaled]
    scaled = parameters_addition(scaled, pseudo_rand_gen(seed, MODULUS, shapes))
    for i in range(n_near):
        key = generate_shared_key(bytes_to_private_key(mask_private), bytes_to_public_key(public))
        mask = pseudo_rand_gen(key, MODULUS, shapes)
        scaled = parameters_addition(scaled, mask) if i % 2 else parameters_subtraction(scaled, mask)
    scaled = parameters_mod(scaled, MODULUS)
    return time.perf_counter() - start, scaled


def time_combining(secret: bytes, case: dict[str, int], n_given: int, n_secrets: int) -> float:
    """Return the seconds of opening ``n_secrets`` secrets from ``n_given`` shares each (Flower takes all it got)."""
    shares = create_shares(secret, case["threshold"], case["shares"])[:n_given]
    n_timed = min(SAMPLE, n_secrets)
    start = time.perf_counter()
    for _ in range(n_timed):
        combine_shares(shares)
    return (time.perf_counter() - start) * n_secrets / n_timed if n_timed else 0.0


def time_server(case: dict[str, int], masked: list[np.ndarray]) -> float:
    """Return the seconds of the server: adding, opening secrets, removing masks."""
    n_alive = case["n"] - case["n_dropped"]
    n_near = round((case["shares"] - 1) * n_alive / case["n"])  # of a device's neighbours, who are left
    private, public = keys()
    seconds = time_combining(os.urandom(32), case, n_near + 1, n_alive)
    seconds += time_combining(private, case, n_near, case["n_dropped"])
    shapes = [one.shape for one in masked]
    start = time.perf_counter()
    total = masked
    for _ in range(n_alive - 1):
        total = parameters_addition(total, masked)
    total = parameters_mod(total, MODULUS)
    for i in range(n_alive):
        total = parameters_subtraction(total, pseudo_rand_gen(i.to_bytes(32), MODULUS, shapes))
    # Flower removes the masks with all neighbours of a dropped device, whether they are left or not.
    for _ in range(case["n_dropped"] * (case["shares"] - 1)):
        key = generate_shared_key(bytes_to_private_key(private), bytes_to_public_key(public))
        total = parameters_addition(total, pseudo_rand_gen(key, MODULUS, shapes))
    dequantize(parameters_mod(total, MODULUS), CLIP, LEVELS)
    return seconds + time.perf_counter() - start


def main() -> None:
    """Answer each line."""
    for line in sys.stdin:
        case = json.loads(line)
        vector = np.random.default_rng(0).uniform(-1, 1, case["n_params"]).astype(np.float32)
        device_s, masked = time_client(case, vector)
        server_s = time_server(case, masked)
        sent = 8 * (case["n_params"] + 1)  # int64 on the wire
        sys.stdout.write(json.dumps({"device_s": device_s, "server_s": server_s, "vector_bytes": sent}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
