"""Writing a model as a directory that plain `transformers` loads."""

import shutil
from pathlib import Path

from services.worker.language_models.loading import LanguageModel
from shared.model_files import CONFIG, WEIGHTS_INDEX, examine_directory

MAX_SHARD_SIZE = "5GB"
GENERATION_CONFIG = "generation_config.json"


def save_language_model(language_model: LanguageModel, source: Path, directory: Path) -> None:
    """Write the model's weights, as they are now and in its dtype, with the files that it came with.

    source: the directory that the model was loaded from; its tokenizer and generation settings are copied as
    they are. Weights are safetensors; a tied head is stored once, as the embedding. Raises OSError or
    SafetensorError where the disk fails.
    """
    language_model.model.save_pretrained(directory, max_shard_size=MAX_SHARD_SIZE)
    (directory / GENERATION_CONFIG).unlink(missing_ok=True)  # transformers makes one up where there is none
    for name in examine_directory(source).names:
        if name not in {CONFIG, WEIGHTS_INDEX} and not name.endswith(".safetensors"):
            shutil.copyfile(source / name, directory / name)
