"""Array shapes are checked by beartype wherever the tests go, and a warning is an error."""

import pytest
from jaxtyping import install_import_hook

install_import_hook("wfbench", "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error"), append=False)
