"""All kinds of task by name."""

from models.causal_lm import CAUSAL_LM
from models.image_classification import IMAGE_CLASSIFICATION
from models.task import Task
from models.text_classification import TEXT_CLASSIFICATION

__all__ = ["TASKS"]

TASKS: dict[str, Task] = {task.kind: task for task in (TEXT_CLASSIFICATION, CAUSAL_LM, IMAGE_CLASSIFICATION)}
