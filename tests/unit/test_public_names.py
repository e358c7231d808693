import pytest

import vplface
from vplface import margins, terms
from vplface.prototypes import memories


@pytest.mark.parametrize("name", vplface.__all__)
def test_vplface_resolves_every_public_name(name):
    assert getattr(vplface, name) is not None


@pytest.mark.parametrize(
    "table", [margins.MARGINS, memories.MEMORIES, terms.TERMS], ids=["margins", "memories", "terms"]
)
def test_vplface_exports_every_class_of_a_recipe(table):
    for kind in table.values():
        assert getattr(vplface, kind.__name__) is kind
        assert kind.__name__ in vplface.__all__


def test_vplface_raises_AttributeError_for_an_unknown_name():
    with pytest.raises(AttributeError, match="'vplface' has no attribute 'Arcface'"):
        _ = vplface.Arcface
