"""Sources as mypyc makes them fast: dataclasses with their `__init__` written out, constants declared as such, and
what is of one of several classes asked for each of them.

Owns these changes of form. What `@dataclass` makes when the program starts is interpreted, and a frozen one sets its
attributes by way of `object.__setattr__`: 1 us each, where a native one takes a tenth of that. Nobody can set what is
frozen by mistake, as the sources are also type-checked and tested as they are. A declared constant is a number in the
code, and not looked up in a module. A `match` of classes looks each of them up in its module, `A | B` makes a new
object, and `float("inf")` reads a text, each time.
"""

import ast
from collections.abc import Iterator, Sequence

INFINITE = "1e999"


def native(source: str) -> str:
    """The module with its dataclasses written out and its constants declared; all else, comments for mypy too, stands
    as it stood."""
    source = _plainly_asked(source)
    lines, body = source.split("\n"), ast.parse(source).body
    for node in reversed(body):
        if isinstance(node, ast.ClassDef) and _frozen(node) is not None:
            first = node.decorator_list[0].lineno
            _write_out(node)
            lines[first - 1 : node.end_lineno] = ast.unparse(node).split("\n")
        elif name := _constant(node):
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line.replace(f"{name} =", f"{name}: typing.Final =", 1)
        elif several := _constants(node):
            declared = "; ".join(f"{name}: typing.Final = {value}" for name, value in several)
            lines[node.lineno - 1] = declared + lines[node.lineno - 1][node.end_col_offset :]
    after = body[0].end_lineno or 0
    return "\n".join([*lines[:after], "import typing", *lines[after:]])


def parted(source: str, module: str, stays: Sequence[str]) -> tuple[str, str]:
    """(the module without its functions, but those that stay; its other functions), of a module whose classes are not
    for mypyc. `module` is its full name; it takes its functions from the one of that name with `_functions`."""
    lines, body = source.split("\n"), ast.parse(source).body
    away = [node for node in body if isinstance(node, ast.FunctionDef) and node.name not in stays]
    named = [node.name for node in body if isinstance(node, ast.ClassDef)]
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            named += [target.id] if isinstance(target, ast.Name) else []
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    functions = ['"""Functions of a module that has its classes elsewhere."""']
    functions += [line for node in imports for line in lines[node.lineno - 1 : node.end_lineno]]
    functions += [f"from {module} import {', '.join(named)}"]
    functions += [line for node in away for line in [*lines[node.lineno - 1 : node.end_lineno], ""]]
    for node in reversed(away):
        del lines[node.lineno - 1 : node.end_lineno]
    taken = ", ".join(node.name for node in away)
    return "\n".join([*lines, f"from {module}_functions import {taken}", ""]), "\n".join(functions)


def _plainly_asked(source: str) -> str:
    """The same lines, where classes are asked for plainly, and the infinite is a number."""
    lines = source.replace('float("inf")', INFINITE).replace('float("-inf")', f"-{INFINITE}").split("\n")
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Match) and isinstance(node.subject, ast.Name) and all(map(_of_class, node.cases)):
            lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"match {node.subject.id}:", "if True:", 1)
            for number, case in enumerate(node.cases):
                line, pattern = lines[case.pattern.lineno - 1], case.pattern
                before, after = line[: line.index("case ")], line[pattern.end_col_offset :]
                asked = f"isinstance({node.subject.id}, {_class_of(pattern)})"
                word = "else" if _class_of(pattern) is None else f"elif {asked}" if number else f"if {asked}"
                lines[pattern.lineno - 1] = before + word + after
    tree = ast.parse("\n".join(lines))
    named = {name: kinds for node in tree.body for name, kinds in _classes(node)}
    asked_of = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
    ]
    for node in sorted(asked_of, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        kinds = ast.unparse(node.args[1])
        asked = named.get(kinds, kinds.split(" | "))
        if len(asked) > 1 and node.lineno == node.end_lineno:
            whole = lines[node.lineno - 1].encode()  # places are in bytes
            each = " or ".join(f"isinstance({ast.unparse(node.args[0])}, {kind})" for kind in asked)
            lines[node.lineno - 1] = (
                whole[: node.col_offset] + f"({each})".encode() + whole[node.end_col_offset :]
            ).decode()
    return "\n".join(lines)


def _classes(node: ast.stmt) -> Iterator[tuple[str, list[str]]]:
    """The name that some classes have together, as a constant."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Tuple):
        kinds = [ast.unparse(kind) for kind in node.value.elts]
        if node.targets[0].id.isupper() and all(kind.split(".")[-1][:1].isupper() for kind in kinds):
            yield node.targets[0].id, kinds


def _of_class(case: ast.match_case) -> bool:
    """Does it ask for a class and nothing else, or for nothing?"""
    made = case.pattern
    inside = isinstance(made, ast.MatchClass) and bool(made.patterns or made.kwd_patterns)
    anything = isinstance(made, ast.MatchAs) and made.pattern is None and made.name is None
    return case.guard is None and (anything or (isinstance(made, ast.MatchClass) and not inside))


def _class_of(pattern: ast.pattern) -> str | None:
    return ast.unparse(pattern.cls) if isinstance(pattern, ast.MatchClass) else None


def _constant(node: ast.stmt) -> str | None:
    """Its name, if this names a number or a text once and for all."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return None
    plain = isinstance(node.value, ast.Constant | ast.BinOp)
    return node.targets[0].id if plain and node.targets[0].id.isupper() else None


def _constants(node: ast.stmt) -> list[tuple[str, str]]:
    """Of numbers and texts that are named together, each name and its value."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Tuple):
        return []
    names, values = node.targets[0].elts, node.value.elts if isinstance(node.value, ast.Tuple) else []
    plain = bool(values) and all(isinstance(value, ast.Constant | ast.UnaryOp) for value in values)
    return [(ast.unparse(n), ast.unparse(v)) for n, v in zip(names, values, strict=True)] if plain else []


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
