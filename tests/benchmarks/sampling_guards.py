"""What breakers, limits and events cost per sample, beside the same client without them.

Run by hand, in the development environment; it takes about half a minute. The exit status is 0 if the CPU of a sample call
with all three is at most 1.1 times that without: circuits that admit everything, no limits, nobody who listens.

Both clients live in one process and sample in turn from a stub whose answers are canned; CPU is that of all
threads of this process, per call, and each side's figure is the median of its bursts. Waiting for places in the line of
polls is in both, since it cannot be switched off.
"""

import statistics
import sys
from collections import Counter

from client_vs_sdk import BASE_MODEL, TOKENS, WAIT_S, cpu_s, stub

import tinker_actors as ta

BURST, BURSTS, MOST = 600, 16, 1.10
"""More samples in a burst than there are places, so that some wait in line."""


def burst_s(sampler: ta.SamplingClient) -> float:
    """CPU seconds per call of some samples that are asked for at once."""
    prompt, params = ta.ModelInput.from_ints(list(range(TOKENS))), ta.SamplingParams(max_tokens=TOKENS)
    start = cpu_s()
    futures = [sampler.sample(prompt, 1, params) for _ in range(BURST)]
    for future in futures:
        future.result(WAIT_S)
    return (cpu_s() - start) / BURST


def main() -> int:
    """Print what was measured; 0 if it is little enough."""
    seen: Counter[str] = Counter()
    with (
        stub() as url,
        ta.ServiceClient(base_url=url, api_key="tml-guarded") as guarded,
        ta.ServiceClient(
            base_url=url,
            api_key="tml-bare",
            circuit_breaker=ta.BreakerSettings(mode="disabled"),
            sampling_limits=ta.SamplingLimits(is_enabled=False),
        ) as bare,
    ):
        guarded.subscribe(lambda event: seen.update([type(event).__name__]))
        samplers = [
            service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S)
            for service in (guarded, bare)
        ]
        for sampler in samplers * 3:
            burst_s(sampler)
        figures: tuple[list[float], list[float]] = ([], [])
        for number in range(BURSTS):
            for side in (0, 1) if number % 2 else (1, 0):
                figures[side].append(burst_s(samplers[side]))
    with_all, without = (1e6 * statistics.median(one) for one in figures)
    ratio = with_all / without
    verdict = "" if ratio <= MOST else ", MISSED"
    print(
        f"CPU per sample with breaker, limits and events {ratio:.2f}x that without (at most {MOST:.2f}x{verdict})"
    )
    print(
        f"({with_all:.0f} us and {without:.0f} us on this machine at this moment; {sum(seen.values())} events)"
    )
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
