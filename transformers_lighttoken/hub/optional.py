"""Libraries that only the card needs: imported when used, from the extra `card`."""

from functools import partial

from ..optional import import_optional

import_for_card = partial(import_optional, purpose="the model card", extra="card")
