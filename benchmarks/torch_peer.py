"""PyTorch's side of ``bench_train``: the same model, adapter, optimiser and batches, in a process of its own.

Prints one JSON line: seconds in the training steps, and the process's peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from host.memory import peak_bytes
from models import text_classification as task
from models.adapters import Recipe, add_adapter
from models.samples import sample_folder
from models.task import build


def main() -> None:
    """Train for some steps and print what they cost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--attention", choices=("eager", "sdpa"), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, family = build(sample_folder("minilm"), task.TEXT_CLASSIFICATION, n_labels=2, seed=0)
    model.set_attn_implementation(options.attention)
    add_adapter(model, family, Recipe(parts=("lora", "head"), targets=family.default_targets))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    classifier = task.Classifier(model)
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(1000, 20000, (options.steps, options.batch, options.tokens)))
    mask = torch.ones_like(ids[0])
    labels = torch.from_numpy(rng.integers(0, 2, (options.steps, options.batch)))
    began = time.monotonic()
    for step in range(options.steps):
        optimizer.zero_grad()
        loss = task.loss(classifier(ids[step], mask), labels[step])
        loss.backward()
        optimizer.step()
    print(json.dumps({"train_s": time.monotonic() - began, "peak_memory_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
