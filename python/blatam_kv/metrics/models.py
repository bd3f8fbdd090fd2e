"""What is counted and timed of a language model, under OpenTelemetry's names for generative AI.

The model is one for the life of a service, so its name may be a label.
"""

from __future__ import annotations

from blatam_kv.metrics.histograms import Histograms

# The buckets of OpenTelemetry's conventions.
_DURATION_BUCKETS = tuple(0.01 * 2.0**step for step in range(14))
_FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
_TOKEN_SECONDS_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
_TOKENS_BUCKETS = tuple(4.0**step for step in range(14))


class ModelMetrics:
    """The calls of one model. Safe from any thread.

    histograms: those of the service. provider: ``mini``, ``local`` or ``openai``. model: the name it
    goes by.
    """

    def __init__(self, histograms: Histograms, *, provider: str, model: str) -> None:
        labels = {
            "gen_ai_operation_name": "chat",
            "gen_ai_provider_name": provider,
            "gen_ai_request_model": model,
        }
        took = histograms.new(
            "gen_ai_server_request_duration_seconds",
            "Time of one call of the model; error_type is empty for one that succeeded.",
            _DURATION_BUCKETS,
            [*labels, "error_type"],
        )
        self._took = {kind: took.of(*labels.values(), kind) for kind in ("", "model")}
        self._first = histograms.new(
            "gen_ai_server_time_to_first_token_seconds",
            "Time until the model's first piece of text, which is what reading the prompt took.",
            _FIRST_TOKEN_BUCKETS,
            [*labels],
        ).of(*labels.values())
        self._each = histograms.new(
            "gen_ai_server_time_per_output_token_seconds",
            "Time for each further token of an answer.",
            _TOKEN_SECONDS_BUCKETS,
            [*labels],
        ).of(*labels.values())
        usage = histograms.new(
            "gen_ai_client_token_usage",
            "Tokens of one call; cached_input are those of the input that were not computed again.",
            _TOKENS_BUCKETS,
            [*labels, "gen_ai_token_type"],
        )
        self._usage = {
            kind: usage.of(*labels.values(), kind) for kind in ("input", "output", "cached_input")
        }

    def wrote(
        self, seconds: float, first: float, *, prompt: int, completion: int, cached: int
    ) -> None:
        """Note one answer that came to its end. first: seconds until its first piece."""
        self._took[""].observe(seconds)
        self._first.observe(first)
        if completion > 1:
            self._each.observe((seconds - first) / (completion - 1))
        for kind, tokens in (("input", prompt), ("output", completion), ("cached_input", cached)):
            self._usage[kind].observe(tokens)

    def failed(self, seconds: float) -> None:
        """Note one call that raised."""
        self._took["model"].observe(seconds)
