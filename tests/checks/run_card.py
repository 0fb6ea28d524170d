"""Run the Python of a model card as its reader would, beside the folder that it names.

usage: run_card.py FOLDER
"""

import contextlib
import io
import os
import re
import sys
from pathlib import Path

folder = Path(sys.argv[1]).resolve()
(code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
os.chdir(folder.parent)
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    exec(code, {})
assert printed.getvalue().endswith("\n"), "the card's code printed nothing"
print(f"{folder.name}: the card's code printed {len(printed.getvalue()) - 1:,} characters")
