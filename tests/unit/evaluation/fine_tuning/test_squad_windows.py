"""Windows overlap as asked, labels lie where the answer is, and answers come from the best window."""

from itertools import pairwise

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.checkpoints import add_tokenizer, save_dense
from transformers_lighttoken.evaluation.fine_tuning.squad_windows import (
    MAX_ANSWER_TOKENS,
    Window,
    answer_positions,
    best_answers,
    cut_windows,
)

CONTEXT = " ".join(f"word{number}" for number in range(40))
QUESTION = "word50 word51 word52"
MAX_LENGTH, STRIDE = 20, 4  # 14 tokens of the context in a window, 10 new ones each time


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_dense(folder)
    add_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def cut(tokenizer):
    rows = {"question": [QUESTION, " word1 "], "context": [CONTEXT, "word3 word4"]}
    return cut_windows(tokenizer, rows, MAX_LENGTH, STRIDE)


def spans(window):
    return [span for span in window.offsets if span is not None]


def characters(text):
    start = CONTEXT.index(text)
    return start, start + len(text)


def test_windows_cover_the_context_and_share_the_stride(cut):
    windows = [window for window in cut[1] if window.row == 0]
    assert [len(spans(window)) for window in windows] == [14, 14, 14, 10]
    for before, after in pairwise(windows):
        assert spans(before)[-STRIDE:] == spans(after)[:STRIDE]
    words = [CONTEXT[slice(*span)] for span in sorted({span for window in windows for span in spans(window)})]
    assert " ".join(words) == CONTEXT
    assert [window.row for window in cut[1]] == [0, 0, 0, 0, 1]


def test_each_window_is_its_question_and_a_part_of_the_context(cut, tokenizer):
    features, windows = cut
    for feature, window in zip(features, windows, strict=True):
        assert len(feature["input_ids"]) == len(window.offsets) <= MAX_LENGTH
        context = CONTEXT if window.row == 0 else "word3 word4"
        part = " ".join(context[slice(*span)] for span in spans(window))
        expected = tokenizer(QUESTION if window.row == 0 else "word1", part)["input_ids"]
        assert feature["input_ids"] == expected
        assert set(feature) == {"input_ids", "token_type_ids", "attention_mask"}


def test_an_answer_is_labelled_in_every_window_that_has_it_whole(cut):
    windows = [window for window in cut[1] if window.row == 0]
    in_both = characters("word11 word12")  # 10 to 13 are shared by the first two
    labels = [answer_positions(window, *in_both) for window in windows]
    assert labels[2:] == [(0, 0), (0, 0)]
    for window, (first, last) in zip(windows[:2], labels, strict=False):
        found = window.offsets[first][0], window.offsets[last][1]
        assert CONTEXT[slice(*found)] == "word11 word12"
    across = characters("word9 word10 word11")  # whole in the first only: the second begins with word10
    assert [answer_positions(window, *across) != (0, 0) for window in windows] == [True, False, False, False]
    beyond = characters("word12 word13 word14")  # whole in the second only: the first ends with word13
    assert [answer_positions(window, *beyond) != (0, 0) for window in windows] == [False, True, False, False]


def test_a_part_of_a_word_is_labelled_by_the_whole_word(cut):
    start, end = characters("word15")
    first, last = answer_positions(cut[1][1], start + 1, end - 1)
    assert first == last
    assert cut[1][1].offsets[first] == (start, end)


def logits_for(windows, at):
    """Logits that are highest at the given tokens of the given windows."""
    starts, ends = np.full((2, len(windows), MAX_LENGTH), -5.0)
    for number, first, last, height in at:
        starts[number, first] = ends[number, last] = height
    return starts, ends


def test_the_best_window_wins_and_context_beyond_a_window_is_never_read(cut):
    windows = cut[1]
    first, last = answer_positions(windows[1], *characters("word15 word16"))
    other, _ = answer_positions(windows[0], *characters("word2"))
    starts, ends = logits_for(windows, [(1, first, last, 3.0), (0, other, other, 2.0)])
    starts[:, 0] = ends[:, 0] = starts[:, 2] = ends[:, 2] = 9.0  # [CLS] and the question are no answers
    starts[4, 12:] = ends[4, 12:] = 9.0  # padding of a short window
    starts[4, 3] = ends[4, 4] = 1.0
    contexts = [CONTEXT, "word3 word4"]
    assert best_answers(windows, starts, ends, contexts) == ["word15 word16", "word3 word4"]
    starts[0, other] = ends[0, other] = 4.0
    assert best_answers(windows, starts, ends, contexts)[0] == "word2"


def test_an_end_before_its_start_and_a_long_answer_are_passed_over():
    window = Window(0, (None, *((3 * token, 3 * token + 2) for token in range(60))))
    context = " ".join(f"{number:02d}" for number in range(60))
    starts, ends = np.full((2, 1, 61), -1.0)
    starts[0, 41], ends[0, 31] = 5, 5  # backwards
    ends[0, 45] = 2
    assert best_answers([window], starts, ends, [context]) == [" ".join(f"{n}" for n in range(40, 45))]
    starts[0, 1] = ends[0, 1 + MAX_ANSWER_TOKENS] = 50  # one token too long together
    assert len(best_answers([window], starts, ends, [context])[0].split()) <= MAX_ANSWER_TOKENS


def test_it_agrees_with_trying_every_span():
    random = np.random.default_rng(0)
    context = "".join(chr(97 + number) for number in range(18))
    begins = (0, 5, 9)
    windows = [Window(0, (None, None, *((begin + t, begin + t + 1) for t in range(9)))) for begin in begins]
    for _ in range(30):
        starts, ends = random.normal(size=(2, 3, 13))
        every = [
            (starts[number, first] + ends[number, last], context[begin + first - 2 : begin + last - 1])
            for number, begin in enumerate(begins)
            for first in range(2, 11)
            for last in range(first, 11)
        ]
        assert best_answers(windows, starts, ends, [context]) == [max(every)[1]]


def test_a_context_without_a_window_has_no_answer():
    assert best_answers([Window(1, (None, (0, 1)))], np.zeros((1, 2)), np.zeros((1, 2)), ["a", "b"]) == ["", "b"]


def test_a_stride_that_leaves_no_room_is_refused(tokenizer):
    rows = {"question": [QUESTION], "context": [CONTEXT]}
    with pytest.raises(ValueError, match="the longest question has 3 tokens, and windows share 8. Raise max_length to"):
        cut_windows(tokenizer, rows, 14, 8)
    assert len(cut_windows(tokenizer, rows, 15, 8)[1]) == 32


def test_a_long_question_is_cut(tokenizer):
    rows = {"question": [" ".join(["word5"] * 90)], "context": ["word1 word2"]}
    features, _ = cut_windows(tokenizer, rows, 100, 10)
    assert len(features[0]["input_ids"]) == 64 + 2 + 3
