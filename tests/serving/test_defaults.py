"""What a request leaves unsaid is as the model's files have it; what it says stands above them."""

from athanor.serving.generation import sampling_of
from athanor.serving.schema import CompletionRequest

FILES = {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05, "max_tokens": 3, "stop": ("#",)}


def test_what_a_request_says_stands_above_the_models_files() -> None:
    silent = CompletionRequest.model_validate({"model": "m", "prompt": "a"})
    found = sampling_of(silent, 16, 0, 100, None, FILES)
    assert (found.temperature, found.top_k, found.repetition_penalty, found.stop) == (0.7, 20, 1.05, ("#",))
    assert found.max_tokens == 16 and found.top_p == 1.0  # its length is counted against the context elsewhere
    told = CompletionRequest.model_validate({"model": "m", "prompt": "a", "temperature": 1.0, "stop": "x"})
    found = sampling_of(told, 16, 0, 100, None, FILES)
    assert (found.temperature, found.top_k, found.stop) == (1.0, 20, ("x",))
    assert sampling_of(silent, 16, 0, 100).temperature == 1.0
