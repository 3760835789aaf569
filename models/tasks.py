"""All kinds of task by name."""

from models.causal_lm import CAUSAL_LM
from models.class_names import CLASS_NAMES
from models.forecasting import FORECASTING
from models.image_classification import IMAGE_CLASSIFICATION
from models.image_text import IMAGE_TEXT
from models.quantile_forecasting import QUANTILE_FORECASTING
from models.sentence_embedding import SENTENCE_EMBEDDING
from models.task import Task
from models.text_classification import TEXT_CLASSIFICATION
from models.token_classification import TOKEN_CLASSIFICATION

__all__ = ["NAMED_CLASSES", "QUANTILES", "TASKS", "task_name"]

NAMED_CLASSES = "named-classes"  # to the exporter; to devices it is an image classification
QUANTILES = "quantile-forecasting"  # likewise; to devices it is forecasting

TASKS: dict[str, Task] = {
    task.kind: task
    for task in (
        TEXT_CLASSIFICATION,
        TOKEN_CLASSIFICATION,
        SENTENCE_EMBEDDING,
        CAUSAL_LM,
        IMAGE_CLASSIFICATION,
        IMAGE_TEXT,
        FORECASTING,
    )
} | {NAMED_CLASSES: CLASS_NAMES, QUANTILES: QUANTILE_FORECASTING}


def task_name(kind: str, *, family: str) -> str:
    """Return the exporter's name of the task of ``kind`` for a model of ``family``; ``kind`` if there is none."""
    names = (name for name, task in TASKS.items() if task.kind == kind and family in {f.name for f in task.families})
    return next(names, kind)
