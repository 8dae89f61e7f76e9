"""Layers point down and have no cycles (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import composer

ROOT = Path(composer.__file__).parent

# A layer may import the layers below its own row, never its own row's others.
_ROWS = [
    {"cli"},
    {"sysroot"},
    {"compose", "client", "mirror", "oci"},
    {"net"},
    {"jigdo"},
    {"rpm", "ostree"},
    {"system"},
    {"errors", "checksum", "progress"},
]
_LEVEL = {name: level for level, row in enumerate(_ROWS) for name in row}


def _layer(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "composer" and len(parts) > 1 else None


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_imports_point_down() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own not in _LEVEL:  # composer/__init__.py and __main__.py
            continue
        for module in sorted(_imports(path)):
            layer = _layer(module)
            if layer is None or layer == own or layer == "__version__":
                continue
            if _LEVEL[layer] <= _LEVEL[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_modules_have_no_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(("composer", *path.relative_to(ROOT).with_suffix("").parts))
        graph[name.removesuffix(".__init__")] = _imports(path)
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for target in sorted(graph[name] & graph.keys()):
            if target != name:
                visit(target, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_no_module_is_a_drawer() -> None:
    names = {path.stem for path in ROOT.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "misc", "common", "manager"}
