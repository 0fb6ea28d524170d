"""What the server counts, as Prometheus reads it. Touched by the event loop alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

ANSWERS = ("/v1/chat/completions", "/v1/completions")
_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Histogram:
    """How many measurements lie within each bound, in seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one measurement."""
        self.sum += seconds
        self.counts[sum(seconds > bound for bound in _BOUNDS)] += 1

    def lines(self, name: str) -> Iterator[str]:
        """Yield Prometheus' lines, whose counts are cumulative."""
        within = 0
        for bound, count in zip((*_BOUNDS, "+Inf"), self.counts, strict=True):
            within += count
            yield f'{name}_bucket{{le="{bound}"}} {within}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {within}"


class Metrics:
    """Requests by route and status, tokens read and written, seconds to the first token and to the last."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.prompt_tokens = self.completion_tokens = 0
        self.first_token_seconds, self.request_seconds = Histogram(), Histogram()

    @property
    def answered(self) -> int:
        """Count the requests for an answer that got one."""
        return sum(n for (route, status), n in self.requests.items() if route in ANSWERS and status == 200)

    def text(self, running: int, waiting: int) -> str:
        """Return all of it in Prometheus' text format, with the answers that are written and that wait now."""
        lines = ["# TYPE danlu_requests_total counter"]
        for (route, status), count in sorted(self.requests.items()):
            lines.append(f'danlu_requests_total{{route="{route}",status="{status}"}} {count}')
        for name, kind, value in (
            ("danlu_prompt_tokens_total", "counter", self.prompt_tokens),
            ("danlu_completion_tokens_total", "counter", self.completion_tokens),
            ("danlu_answers_running", "gauge", running),
            ("danlu_answers_waiting", "gauge", waiting),
        ):
            lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
        for name, histogram in (
            ("danlu_first_token_seconds", self.first_token_seconds),
            ("danlu_request_seconds", self.request_seconds),
        ):
            lines += [f"# TYPE {name} histogram", *histogram.lines(name)]
        return "\n".join(lines) + "\n"
