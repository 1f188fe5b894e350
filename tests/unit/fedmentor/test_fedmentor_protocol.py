"""Old and new programs that meet: who is refused is told which side is to be brought up to date."""

import pytest

from fedmentor.errors import PolicyRefusal
from fedmentor.protocol import FIRST, NEW_KIT, PROTOCOL, check_node


def test_the_same_protocol_is_understood():
    check_node(PROTOCOL)
    assert FIRST == 1


def test_a_newer_node_waits_for_the_coordinator():
    with pytest.raises(PolicyRefusal) as caught:
        check_node(PROTOCOL + 1)
    assert caught.value.cure == "have the coordinator updated"


@pytest.mark.parametrize("spoken", [0, 1])
def test_a_node_of_an_old_kit_is_told_to_get_a_new_one(spoken):
    """As the next version of the protocol will see today's nodes, and those of before that do not say a number."""
    with pytest.raises(PolicyRefusal, match="node speaks protocol 1, the coordinator protocol 2") as caught:
        check_node(spoken, own=2)
    assert caught.value.cure == NEW_KIT
