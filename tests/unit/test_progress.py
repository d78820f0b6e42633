"""Progress bars on standard error."""

from collections.abc import Iterator

import pytest
from transformers.utils import logging

from transformers_lighttoken.progress import progress_bars


@pytest.fixture
def bars_on() -> Iterator[None]:
    was_on = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    yield
    if not was_on:
        logging.disable_progress_bar()


def work() -> None:
    with progress_bars() as report:
        for done in range(1, 4):
            report("first", done, 3)
        report("second", 5, 5)
        report("second", 1, 5)  # the same work once more


@pytest.mark.usefixtures("bars_on")
def test_one_bar_for_each_piece_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    work()
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().split("\n")
    last = [line.rsplit("\r", 1)[-1] for line in lines]
    assert [line.split("|")[0].strip() for line in last] == ["first: 100%", "second: 100%", "second:  20%"]
    assert "3/3" in last[0]


@pytest.mark.usefixtures("bars_on")
def test_switched_off_as_those_of_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    logging.disable_progress_bar()
    work()
    logging.enable_progress_bar()
    assert capsys.readouterr() == ("", "")


def test_a_callback_takes_the_place_of_bars(capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[tuple[str, int, int]] = []
    with progress_bars(lambda *step: steps.append(step)) as report:
        report("work", 1, 2)
    assert steps == [("work", 1, 2)]
    assert capsys.readouterr() == ("", "")
