"""Names and labels of the figures that the code tells Prometheus, read from its source."""

import ast
from importlib.util import find_spec
from pathlib import Path

_SUFFIXES = {
    "Counter": ("_total",),
    "CounterMetricFamily": ("_total",),
    "Gauge": ("",),
    "GaugeMetricFamily": ("",),
    "Histogram": ("_bucket", "_count", "_sum"),
}
Metrics = dict[str, set[str]]
"""Labels by the name under which Prometheus sees a figure."""


def told(file: Path, prefix: str = "") -> Metrics:
    """Figures that a file makes with literal names, the names as they come from a metrics page."""
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found: Metrics = {}
    for scope in (tree, *functions):  # inner ones last: they know best what their names stand for
        names = _names(scope)
        for call in (node for node in ast.walk(scope) if isinstance(node, ast.Call)):
            kind, first = ast.unparse(call.func), call.args[0] if call.args else None
            if kind in _SUFFIXES and isinstance(first, ast.Constant):
                for suffix in _SUFFIXES[kind]:
                    labels = _labels(call, names) | ({"le"} if suffix == "_bucket" else set())
                    found[f"{prefix}{first.value}{suffix}"] = labels
    return found


def _names(scope: ast.AST) -> dict[str, ast.expr]:
    """Values of names that are set in a scope."""
    return {
        target.id: node.value
        for node in ast.walk(scope)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _labels(call: ast.Call, names: dict[str, ast.expr]) -> set[str]:
    named = [one.value for one in call.keywords if one.arg in ("tag_keys", "labels", "labelnames")]
    given = named[0] if named else call.args[2] if len(call.args) > 2 else ast.Tuple([])
    while isinstance(given, ast.Name) or (isinstance(given, ast.Call) and ast.unparse(given.func) == "tuple"):
        given = names[given.id] if isinstance(given, ast.Name) else given.args[0]
    values: list[ast.expr | None] = []
    if isinstance(given, ast.Dict):
        values = given.keys
    elif isinstance(given, ast.Tuple | ast.List):
        values = [*given.elts]
    return {str(one.value) for one in values if isinstance(one, ast.Constant)}


def installed(package: str, *file: str) -> Path:
    """A source file of an installed package, which is not imported."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], *file)


def assigned(file: Path, name: str) -> dict[str, ast.expr]:
    """The literal dict that a file gives a name, its values unevaluated."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name:
                pairs = zip(node.value.keys, node.value.values, strict=True)
                return {ast.literal_eval(key): value for key, value in pairs if key}
    raise AssertionError(f"{file} has no {name}")
