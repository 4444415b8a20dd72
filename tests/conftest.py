"""Array shapes are checked by beartype wherever the tests go."""

from jaxtyping import install_import_hook

install_import_hook("wfbench", "beartype.beartype")
