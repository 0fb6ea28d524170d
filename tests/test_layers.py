"""Rooms import one way only; the failure names the file and the import."""

import ast
from pathlib import Path

import danlu

SOURCE = Path(danlu.__file__).parent
# From the left: a room may import from rooms further right, and rooms of one row not from each other.
ROWS = [
    {"__init__", "__main__", "cli", "commands", "hf"},
    {"export"},
    {"evaluate", "serve"},
    {"infer"},
    {"train"},
    {"checkpoint"},
    {"model", "data"},
    {"tokenizer"},
    {"configure"},
    {"config"},
    {"log"},
    {"storage", "pages"},
    {"types", "errors"},
]


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def row_of(room: str) -> int:
    return next(i for i, row in enumerate(ROWS) if room in row)


def imports_of(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("danlu")]
        elif isinstance(node, ast.ImportFrom) and node.module == "danlu":
            found += [
                f"danlu.{a.name}" if (SOURCE / a.name).exists() or (SOURCE / f"{a.name}.py").exists() else "danlu"
                for a in node.names
            ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("danlu."):
            found.append(str(node.module))
    return found


def test_imports_point_one_way():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        relative = path.relative_to(SOURCE)
        here = relative.parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for module in imports_of(path):
            there = room_of(module)
            same_row_stranger = row_of(there) == row_of(here) and there != here and here not in ROWS[0]
            if row_of(there) < row_of(here) or same_row_stranger:
                wrong.append(f"{relative} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_its_row():
    rooms = {p.name.removesuffix(".py") for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__pycache__"} == set().union(*ROWS)
