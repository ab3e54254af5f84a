"""Imports only go down: every module may use the floors below its own and its own package, nothing else."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "flyweight"
FLOORS = [
    {"errors", "progress", "version"},
    {"registry", "kernels", "chat_template", "reporting", "demo_model"},
    {"tokenizer"},
    {"formats", "models", "machine"},
    {"checkpoint"},
    {"runtime"},
    {"engine"},
    {"compression", "evaluation", "serving"},
    {"shipping", "bench"},
    {"cli"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS, 1) for name in names}
TOP = {"__init__", "__main__"}  # the package's own door opens on every floor


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("flyweight.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; name the whole path"
            if node.module == "flyweight":
                rooms |= {alias.name for alias in node.names if alias.name in FLOOR_OF}
            elif node.module and node.module.startswith("flyweight."):
                rooms.add(node.module.split(".")[1])
    return rooms


def test_every_room_has_a_floor():
    rooms = {room(path) for path in PACKAGE.rglob("*.py")} - TOP
    assert rooms == set(FLOOR_OF), f"without a floor: {rooms - set(FLOOR_OF)}; gone: {set(FLOOR_OF) - rooms}"


def test_imports_only_go_down():
    faults = []
    for path in PACKAGE.rglob("*.py"):
        here = room(path)
        if here in TOP:
            continue
        faults += [
            f"{path.relative_to(PACKAGE)} (floor {FLOOR_OF[here]}) imports {other} (floor {FLOOR_OF[other]})"
            for other in imported_rooms(path) - {here}
            if FLOOR_OF[other] >= FLOOR_OF[here]
        ]
    assert not faults, "\n".join(faults)


def test_files_stay_small():
    long = {
        str(path.relative_to(PACKAGE)): n
        for path in PACKAGE.rglob("*.py")
        if (n := len(path.read_text().splitlines())) > 450
    }
    assert not long, f"files above 450 lines want to be two: {long}"
