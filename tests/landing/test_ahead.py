"""One item is made while another is worked on: in order, one ahead and no more, and a fault in its place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cdp.ahead import ahead


def test_items_come_in_order_and_a_fault_after_all_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("the fourth cannot be made")

    taken: list[int] = []
    with pytest.raises(ValueError, match="fourth"):
        taken.extend(ahead(items()))
    assert taken == [0, 1, 2]


def test_at_most_one_item_is_made_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            made.append(item)
            yield item

    for item in ahead(items()):
        assert item <= made[-1] <= item + 1
