"""Names that are safe in paths, URIs and logs."""

import pytest

from fedmentor.errors import ConfigError
from fedmentor.ids import digest, run_id, site_id


@pytest.mark.parametrize("name", ["a", "0", "north-hospital-2", "x" * 63])
def test_good_names(name):
    assert site_id(name) == run_id(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "a\n", "é", "x" * 64])
def test_bad_names(name):
    for check in (site_id, run_id):
        with pytest.raises(ConfigError):
            check(name)


def test_digests():
    assert digest("0" * 64) == "0" * 64
    for text in ("", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n"):
        with pytest.raises(ConfigError):
            digest(text)
