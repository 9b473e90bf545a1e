"""`python -m tests.bad_input` writes docs/errors.md anew."""

from stages.core.files import write_text
from tests.bad_input.cases import document
from tests.conftest import ROOT

write_text(ROOT / "docs/errors.md", document())
