"""A language model behind an endpoint that speaks OpenAI's chat completions, as many servers do."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

PASSING_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0


class EndpointAway(ConnectionError):
    """The endpoint gave no answer, however often it was asked; later it may."""


class EndpointRefused(Exception):
    """The endpoint refuses, or its answers make no sense. Nothing that it said is repeated here.

    Some endpoints repeat what they were sent, the key included.
    """


class Message(BaseModel):
    """What was answered; None where the model would not."""

    content: str | None


class Choice(BaseModel):
    message: Message


class Completion(BaseModel):
    """The parts of an answer that are of use."""

    choices: list[Choice]


@dataclass(frozen=True)
class TextEndpoint:
    """Where it is (up to and without `/chat/completions`), which model is asked, and how patiently.

    retries: how often a call is made again that failed for a reason which may pass. pause: waits so many
    seconds between two.
    """

    url: str
    model: str
    key: SecretStr | None = None
    timeout_seconds: float = 60.0
    retries: int = 4
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)

    def answer(self, instruction: str, most_tokens: int, seed: int) -> str:
        """What the model says to an instruction.

        Raises EndpointAway or EndpointRefused.
        """
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": instruction}],
            "max_tokens": most_tokens,
            "seed": seed,
        }
        reason = ""
        for attempt in range(self.retries + 1):
            try:
                response = httpx.post(
                    f"{self.url.rstrip('/')}/chat/completions",
                    json=request,
                    headers=self._headers(),
                    timeout=self.timeout_seconds,
                )
            except httpx.TransportError as error:
                reason, wait = type(error).__name__, backoff(attempt)
            else:
                if response.status_code not in PASSING_STATUSES:
                    return content_of(response)
                reason, wait = f"status {response.status_code}", asked_to_wait(response, attempt)
            if attempt < self.retries:
                self.pause(wait)
        raise EndpointAway(f"the paraphrase endpoint gave no answer in {self.retries + 1} calls ({reason})")

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key.get_secret_value()}"} if self.key else {}


def content_of(response: httpx.Response) -> str:
    """The text of an answer; raises EndpointRefused."""
    if response.status_code != httpx.codes.OK:
        raise EndpointRefused(f"the paraphrase endpoint refuses with status {response.status_code}")
    try:
        choices = Completion.model_validate_json(response.content).choices
    except ValidationError:
        raise EndpointRefused("the paraphrase endpoint's answer is no chat completion") from None
    return choices[0].message.content or "" if choices else ""


def backoff(attempt: int) -> float:
    """Seconds to wait after the call with this number failed."""
    return min(FIRST_WAIT_SECONDS * 2.0**attempt, LONGEST_WAIT_SECONDS)


def asked_to_wait(response: httpx.Response, attempt: int) -> float:
    """Seconds that the endpoint asks to wait, within reason, or else those of `backoff`."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_WAIT_SECONDS) if asked.isdecimal() else backoff(attempt)
