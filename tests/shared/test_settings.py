import pytest
from pydantic import ValidationError

from shared.settings import Settings


def test_paraphrase_endpoint_needs_the_model_that_it_is_asked_for() -> None:
    with pytest.raises(ValidationError, match="HOLDFAST_PARAPHRASE_MODEL"):
        Settings(paraphrase_url="https://models.example/v1")
    assert Settings(paraphrase_url="https://models.example/v1", paraphrase_model="writer").paraphrase_url


@pytest.mark.parametrize(
    "url", ["ftp://models.example/v1", "https://user:secret@models.example/v1", "models"]
)
def test_paraphrase_endpoint_is_an_http_url_without_credentials(url: str) -> None:
    with pytest.raises(ValidationError, match="paraphrase_url"):
        Settings(paraphrase_url=url, paraphrase_model="writer")


def test_key_of_the_paraphrase_endpoint_is_not_shown() -> None:
    assert "sk-secret" not in repr(Settings.model_validate({"paraphrase_key": "sk-secret"}))
