"""One process of tests.benchmarks.distributed: compresses and writes down time, peak memory and traffic."""

import json
import sys
import time
from pathlib import Path

from accelerate import Accelerator

from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.checkpoint import compress
from transformers_lighttoken.distributed import Processes, launched_accelerator


def resident(field: str) -> int:
    """Resident bytes of this process, now (VmRSS) or at most (VmHWM)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))


def main() -> None:
    """Compresses argument 1 into argument 2 at the ratio of argument 3."""
    with launched_accelerator("cpu") as accelerator:
        measure(accelerator, *sys.argv[1:])


def measure(accelerator: Accelerator | None, source: str, output: str, ratio: str) -> None:
    """Compresses and writes down the figures."""
    made: list[Processes] = []

    class Followed(Processes):
        def __init__(self, *arguments: object) -> None:
            super().__init__(accelerator)
            made.append(self)

        def reduce(self, total):  # noqa: ANN001, ANN202
            before = self.bytes_exchanged
            result = super().reduce(total)
            if total.dim() == 2:
                rounds.append((tuple(total.shape), self.bytes_exchanged - before))
            return result

        def gather(self, tensor):  # noqa: ANN001, ANN202
            before = self.bytes_exchanged
            result = super().gather(tensor)
            gathered.append(self.bytes_exchanged - before)
            return result

    gathered: list[int] = []
    rounds: list[tuple[tuple[int, ...], int]] = []
    compress.Processes = Followed
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    start, worked = time.perf_counter(), time.process_time()
    config = LightTokenConfig(compression_ratio=float(ratio), metric="plain", tiers="equal")
    report = compress.compress_checkpoint(source, output, config, accelerator=accelerator, progress=lambda *_: None)
    facts = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - worked,
        "peak_bytes": resident("VmHWM") - before,
        "code_bits": report.tables[0].plan.code_bits,
        "last_round_bytes": rounds[-1][1] if rounds else 0,
        "gathered_bytes": sum(gathered),
        "all_bytes": made[0].bytes_exchanged,
    }
    Path(f"{output}-{made[0].index}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
