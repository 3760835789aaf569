"""All kinds of task by name."""

from models.causal_lm import CAUSAL_LM
from models.forecasting import FORECASTING
from models.image_classification import IMAGE_CLASSIFICATION
from models.image_text import IMAGE_TEXT
from models.sentence_embedding import SENTENCE_EMBEDDING
from models.task import Task
from models.text_classification import TEXT_CLASSIFICATION
from models.token_classification import TOKEN_CLASSIFICATION

__all__ = ["TASKS"]

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
}
