"""The pictures are the same for the same facts, and readable on a phone and on light and dark pages."""

import io
import struct
from dataclasses import replace

import matplotlib as mpl
import matplotlib.image
import pytest
from matplotlib.colors import to_rgb

from tests.unit.hub.example import example_facts
from transformers_lighttoken.hub import pictures
from transformers_lighttoken.hub.facts import CardFacts
from transformers_lighttoken.hub.pictures import FAINT, INK, PANEL, REST, TABLE, draw_pictures

PHONE_WIDTH = 360  # points of a phone's own


@pytest.fixture(scope="module")
def facts() -> CardFacts:
    return example_facts()


def chunks(data: bytes) -> list[tuple[str, bytes]]:
    found, start = [], 8
    while start < len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        found.append((data[start + 4 : start + 8].decode(), data[start + 8 : start + 8 + length]))
        start += 12 + length
    return found


def contrast(first: str, second: str) -> float:
    """Of two colours, after WCAG 2: 1 for the same, 21 for black on white."""

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_same_facts_same_bytes_whatever_the_user_has_set(facts: CardFacts):
    first = draw_pictures(facts)
    before = dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "savefig.transparent": True, "text.usetex": True}):
        assert draw_pictures(facts) == first
        assert mpl.rcParams["font.size"] == 30
    assert dict(mpl.rcParams) == before


def test_no_date_and_no_version_in_them(facts: CardFacts):
    for picture in draw_pictures(facts):
        kinds = [kind for kind, _ in chunks(picture.data)]
        assert set(kinds) <= {"IHDR", "pHYs", "tEXt", "IDAT", "IEND"}
        assert [data for kind, data in chunks(picture.data) if kind == "tEXt"] == [
            b"Description\0" + picture.text.encode()
        ]


def test_numbers_are_in_the_words(facts: CardFacts):
    first, second = draw_pictures(facts)
    assert first.text == ("Bytes before and after: the model 90.9 MB and 45.8 MB, its token table 46.9 MB and 1.9 MB")
    assert second.text == (
        "Distribution of the cosines of 30,522 rows to the dense ones: mean 0.886, 1st percentile 0.820"
    )


def test_type_is_large_enough_on_a_phone(facts: CardFacts):
    for picture in draw_pictures(facts):
        width = matplotlib.image.imread(io.BytesIO(picture.data)).shape[1]
        assert width == 3 * PHONE_WIDTH
        pixels = pictures._TYPE * pictures._DPI / 72
        assert pixels * PHONE_WIDTH / width >= 12


def test_opaque_and_in_strong_colours(facts: CardFacts):
    for picture in draw_pictures(facts):
        image = matplotlib.image.imread(io.BytesIO(picture.data))
        assert image.shape[2] == 3 or image[..., 3].min() == 1
        assert image[0, 0, :3] == pytest.approx(to_rgb(PANEL), abs=0.01)
    assert min(contrast(colour, PANEL) for colour in (INK, FAINT, TABLE)) >= 4.5
    assert contrast(TABLE, REST) >= 2.5


def test_bars_are_as_long_as_the_bytes(facts: CardFacts):
    (first, _) = draw_pictures(facts)
    image = matplotlib.image.imread(io.BytesIO(first.data))[..., :3]
    lengths = []
    for row in range(image.shape[0]):
        bar = [abs(image[row] - to_rgb(colour)).max(axis=1) < 0.02 for colour in (TABLE, REST)]
        lengths.append((int(bar[0].sum()), int(bar[1].sum())))
    full = max(sum(pair) for pair in lengths)
    before = max((pair for pair in lengths if sum(pair) == full), key=lambda pair: pair[0])
    after = max((pair for pair in lengths if 0.3 * full < sum(pair) < 0.7 * full), key=sum)
    assert before[0] / full == pytest.approx(46.88 / 90.86, abs=0.01)
    assert sum(after) / full == pytest.approx(45.85 / 90.86, abs=0.01)
    assert after[0] / full == pytest.approx(1.87 / 90.86, abs=0.01)


def test_without_a_histogram_there_is_one_picture(facts: CardFacts):
    assert [picture.path for picture in draw_pictures(replace(facts, cosine_histogram=None))] == [
        "pictures/lighttoken_bytes.png"
    ]
