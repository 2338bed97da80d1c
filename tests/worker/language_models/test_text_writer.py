"""Texts written by tiny random models: causal, made for conversations, sequence to sequence."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5Config

from services.worker.editing.paraphrase_sources import TooFewUsableParaphrases, paraphrase_edits
from services.worker.editing.written_paraphrases import WrittenHere
from services.worker.language_models.loading import ModelNotLoadable
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import untold
from services.worker.language_models.text_writer import TextWriter, load_text_writer
from tests.worker.editing.cases import EDITS
from tests.worker.tiny_models import VOCABULARY_SIZE, tiny_model, tiny_tokenizer

CHAT = (
    "{% for turn in messages %}who {{ turn['content'] }} .{% endfor %}"
    "{% if add_generation_prompt %} is{% endif %}"
)


def save_seq2seq(folder: Path) -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY_SIZE,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=1,
        pad_token_id=1,
        eos_token_id=0,
    )
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer(pad_token="<unk>").save_pretrained(folder)  # noqa: S106 (not a password)


def save_causal(folder: Path, *, chat: bool) -> None:
    tiny_model("gpt2").save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT if chat else None
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module", params=["causal", "chat", "seq2seq"])
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextWriter:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "seq2seq":
        save_seq2seq(folder)
    else:
        save_causal(folder, chat=request.param == "chat")
    return load_text_writer(folder, reference=f"local:{request.param}")


def write(writer: TextWriter, prompts: list[str], *, seed: int = 0, choices: int = 3) -> list[list[str]]:
    return writer.write(prompts, choices, 6, seed=seed, progress=untold, memory=GpuMemory())


def test_kinds_of_models_are_told_apart(writer: TextWriter) -> None:
    kind = writer.reference.removeprefix("local:")
    assert writer.rewrites is (kind == "seq2seq")
    assert writer.follows_instructions is (kind == "chat")


def test_every_prompt_is_given_its_own_texts(writer: TextWriter) -> None:
    written = write(writer, ["Ada lives in", "the old river and the house of"])
    assert [len(texts) for texts in written] == [3, 3]
    assert any(texts != written[0] for texts in written[1:])
    assert all("Ada lives in" not in text for text in written[0])  # what was asked is not repeated


def test_the_same_seed_gives_the_same_texts_and_another_others(writer: TextWriter) -> None:
    prompts = ["Ada lives in"] * 3
    assert write(writer, prompts) == write(writer, prompts) != write(writer, prompts, seed=1)


def test_writing_leaves_chance_as_it_was_to_everybody_else(writer: TextWriter) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    write(writer, ["Ada lives in"])
    assert torch.equal(torch.rand(3), expected)


def test_a_tokenizer_that_ends_texts_with_eos_has_a_prompt_continued_all_the_same(tmp_path: Path) -> None:
    save_causal(tmp_path, chat=False)
    plain = load_text_writer(tmp_path, reference="local:plain")
    tiny_tokenizer(adds_eos=True).save_pretrained(tmp_path)
    with_eos = load_text_writer(tmp_path, reference="local:eos")
    assert write(with_eos, ["Ada lives in", "The"]) == write(plain, ["Ada lives in", "The"])


def test_progress_counts_the_prompts(writer: TextWriter) -> None:
    told: list[tuple[int, int]] = []
    writer.write(["Ada"] * 40, 1, 2, seed=0, progress=lambda *share: told.append(share), memory=GpuMemory())
    assert told == [(32, 40), (40, 40)]


def test_prompt_that_the_model_has_too_few_positions_for_is_refused(tmp_path: Path) -> None:
    save_causal(tmp_path, chat=False)
    writer = load_text_writer(tmp_path, reference="local:short")
    with pytest.raises(ModelNotLoadable, match="local:short: it reads 64 tokens at once, 66 are needed"):
        write(writer, ["old " * 59 + "river"])


def test_directory_that_is_not_safe_to_load_is_refused(tmp_path: Path) -> None:
    save_causal(tmp_path, chat=False)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelNotLoadable, match="safetensors files are required"):
        load_text_writer(tmp_path, reference="local:pickled")


def test_model_that_writes_nonsense_gives_too_few_usable_paraphrases(tmp_path: Path) -> None:
    save_seq2seq(tmp_path)
    source = WrittenHere("model:local:x", load_text_writer(tmp_path, reference="local:x"), seed=0)
    with pytest.raises(TooFewUsableParaphrases, match="model:local:x gave too few usable paraphrases"):
        paraphrase_edits(source, EDITS, 2, untold)
