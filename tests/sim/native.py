"""Sources as mypyc makes them fast: dataclasses with their `__init__` written out, and constants declared as such.

Owns these changes of form. What `@dataclass` makes when the program starts is interpreted, and a frozen one sets its
attributes by way of `object.__setattr__`: 1 us each, where a native one takes a tenth of that. Nobody can set what is
frozen by mistake, as the sources are also type-checked and tested as they are. A declared constant is a number in the
code, and not looked up in a module.
"""

import ast
from collections.abc import Iterator


def native(source: str) -> str:
    """The module with its dataclasses written out and its constants declared; all else, comments for mypy too, stands
    as it stood."""
    lines, body = source.split("\n"), ast.parse(source).body
    for node in reversed(body):
        if isinstance(node, ast.ClassDef) and _frozen(node) is not None:
            first = node.decorator_list[0].lineno
            _write_out(node)
            lines[first - 1 : node.end_lineno] = ast.unparse(node).split("\n")
        elif name := _constant(node):
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line.replace(f"{name} =", f"{name}: typing.Final =", 1)
    after = body[0].end_lineno or 0
    return "\n".join([*lines[:after], "import typing", *lines[after:]])


def _constant(node: ast.stmt) -> str | None:
    """Its name, if this names a number or a text once and for all."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return None
    plain = isinstance(node.value, ast.Constant | ast.BinOp)
    return node.targets[0].id if plain and node.targets[0].id.isupper() else None


def _frozen(node: ast.ClassDef) -> bool | None:
    """Whether it is a frozen dataclass; None of what is none, or says more of itself than that."""
    for made in node.decorator_list:
        if isinstance(made, ast.Name) and made.id == "dataclass":
            return False
        if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id == "dataclass":
            return True if [word.arg for word in made.keywords] == ["frozen"] else None
    return None


def _write_out(node: ast.ClassDef) -> None:
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    said = "init=False, unsafe_hash=True" if _frozen(node) else "init=False"
    node.decorator_list = [ast.parse(f"dataclass({said})", mode="eval").body]
    if not fields:
        return
    parameters = ", ".join(_parameter(field) for field in fields)
    lines = [line for field in fields for line in _set(field)]
    made = ast.parse(f"def __init__(self, {parameters}) -> None:\n" + "\n".join(f"    {line}" for line in lines)).body
    for field in fields:
        field.value = None
    last = max(node.body.index(field) for field in fields)
    node.body[last + 1 : last + 1] = made


def _words(field: ast.AnnAssign) -> dict[str, str]:
    """What `field(...)` is given."""
    value = field.value
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "field":
        return {str(word.arg): ast.unparse(word.value) for word in value.keywords}
    return {} if value is None else {"default": ast.unparse(value)}


def _parameter(field: ast.AnnAssign) -> str:
    name, kind, words = ast.unparse(field.target), ast.unparse(field.annotation), _words(field)
    if "default_factory" in words:
        return f"{name}: ({kind}) | None = None"
    return f"{name}: {kind}" + (f" = {words['default']}" if "default" in words else "")


def _set(field: ast.AnnAssign) -> Iterator[str]:
    name, words = ast.unparse(field.target), _words(field)
    made = words.get("default_factory")
    yield f"self.{name} = {name}" + (f" if {name} is not None else {made}()" if made else "")
