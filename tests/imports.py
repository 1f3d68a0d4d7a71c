"""Which module of fsdlib imports which, read from the source; `--write` draws it into CONTRIBUTING.md (`make drawing`)."""

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {  # from the top; a floor may import those below it
    "world": "fsdlib/world: the embedded world",
    "measure": "fsdlib/measure: measuring",
    "method": "fsdlib: the method",
}
BEGIN = "<!-- drawing of the imports, written by make drawing: begin -->"
END = "<!-- drawing of the imports: end -->"


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of fsdlib by its dotted name."""
    found = {}
    for path in sorted(root.glob("fsdlib/**/*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def floor(module: str) -> str:
    """The floor on which a module lies."""
    below = module.split(".")[1:2]
    return below[0] if below and below[0] in FLOORS else "method"


def statements(path: Path, everywhere: bool = True) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements of a file, but those for type checking; without `everywhere` only what importing the file runs."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def imported(path: Path, module: str, everywhere: bool = True) -> set[str]:
    """The dotted names that a file's imports may mean: modules, or things in them."""
    names = set()
    for node in statements(path, everywhere):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            names |= {".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names}
    return names


def graph(root: Path = ROOT) -> dict[str, set[str]]:
    """For every module of fsdlib those it imports, anywhere in its file."""
    found = modules(root)
    edges: dict[str, set[str]] = {}
    for module, path in found.items():
        meant = imported(path, module)
        edges[module] = {name if name in found else name.rpartition(".")[0] for name in meant} & found.keys() - {module}
    return edges


def circle(edges: dict[str, set[str]]) -> list[str]:
    """A chain of imports that ends where it began, or nothing."""
    done: set[str] = set()

    def follow(module: str, chain: list[str]) -> list[str]:
        if module in chain:
            return [*chain[chain.index(module) :], module]
        if module not in done:
            for other in sorted(edges[module]):
                if found := follow(other, [*chain, module]):
                    return found
            done.add(module)
        return []

    return next(filter(None, (follow(module, []) for module in sorted(edges))), [])


def upward(edges: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that go from a floor to one above it."""
    height = {name: -place for place, name in enumerate(FLOORS)}
    pairs = ((module, other) for module in sorted(edges) for other in sorted(edges[module]))
    return [(module, other) for module, other in pairs if height[floor(other)] > height[floor(module)]]


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The edges that do not follow from others; the graph must be without circles."""

    def reach(module: str) -> set[str]:
        return edges[module].union(*map(reach, edges[module]))

    return {module: others - set().union(*map(reach, others)) for module, others in edges.items()}


def folded(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph with every package within a floor (such as fsdlib.world.training) as one module."""

    def whole(module: str) -> str:
        return ".".join(module.split(".")[: 2 if floor(module) == "method" else 3])

    together: dict[str, set[str]] = {whole(module): set() for module in edges}
    for module, others in edges.items():
        together[whole(module)] |= {whole(other) for other in others} - {whole(module)}
    return together


def drawing(edges: dict[str, set[str]]) -> str:
    """A mermaid graph: the modules on their floors, thin arrows within a floor, a thick one from floor to floor."""
    edges = folded(edges)
    shown = {module: others for module, others in edges.items() if others or any(module in o for o in edges.values())}
    lines, between = ["flowchart TB"], []
    for name, title in FLOORS.items():
        here = [module for module in shown if floor(module) == name]
        within = reduced({module: {other for other in shown[module] if other in here} for module in here})
        lines.append(f'  subgraph {name} ["{title}"]')
        for module in here:
            label = module.removeprefix("fsdlib.").removeprefix(f"{name}.")
            lines.append(f'    {_identifier(module)}["{label}"]')
        lines += [
            f"    {_identifier(module)} --> {_identifier(other)}" for module in here for other in sorted(within[module])
        ]
        lines.append("  end")
        between += sorted({(name, floor(other)) for module in here for other in shown[module]} - {(name, name)})
    return "\n".join([*lines, *(f"  {above} ==> {below}" for above, below in between)])


def _identifier(module: str) -> str:
    return module.replace(".", "_")


def with_drawing(text: str, edges: dict[str, set[str]]) -> str:
    """A text with the drawing between its two marks; raises ValueError where one of them is missing."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the text has not one {BEGIN!r} and one {END!r}: put both back on lines of their own")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n```mermaid\n{drawing(edges)}\n```\n{END}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the drawing into CONTRIBUTING.md")
    asked, edges = parser.parse_args(), graph()
    if wrong := circle(edges) or circle(folded(edges)):
        sys.exit(f"error: modules import each other in a circle: {' -> '.join(wrong)}")
    page = ROOT / "CONTRIBUTING.md"
    if asked.write:
        page.write_text(with_drawing(page.read_text(), edges))
    else:
        print(drawing(edges))
