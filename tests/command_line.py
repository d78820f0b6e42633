"""Running the command line inside the tests' own process."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from transformers_lighttoken.cli import main


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_command(capfd: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """What a command writes, and the status with which it ends."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return Result(int(ended.value.code or 0), out, err)
