"""Where a module can be broken: cosmic-ray's operators, and four of ours for the wiring between functions."""

import ast
import itertools
import random
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator, operator_names

BINARY = {  # others raise a TypeError at once, or do the same
    "Add": ("Sub", "Mul"), "Sub": ("Add",), "Mul": ("Div", "Add"), "Div": ("Mul",), "FloorDiv": ("Mul", "Div"),
    "Mod": ("Mul",), "Pow": ("Mul",), "BitOr": ("BitAnd",), "BitAnd": ("BitOr",),
}  # fmt: skip
ORDER = ("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE")
COMPARISON = {one: tuple(other for other in ORDER if other != one) for one in ORDER}
COMPARISON |= {"Is": ("IsNot",), "IsNot": ("Is",)}  # "is" in place of "==" does the same on names and small numbers
LEFT_OUT = ("Variable", "ExceptionReplacer")  # random names, and exceptions that nobody raises


@dataclass(frozen=True)
class Mutant:
    """A broken module.

    Attributes:
        name: Module, line and operator.
        module: The file, from the package on.
        operator: What broke it.
        before: The line as it is.
        after: The line as it is broken.
        text: The whole module, broken.
        line: Where it is broken, from 1.
    """

    name: str
    module: str
    operator: str
    before: str
    after: str
    text: str
    line: int


class SwapArguments(Operator):
    """Swaps two neighbouring positional arguments of a call, names in quotes apart: they are for messages."""

    def mutation_positions(self, node: Any) -> list[Any]:  # noqa: D102 - a list, for the node changes under its reader
        return [(node.children[i].start_pos, node.children[j].end_pos) for i, j in self._pairs(node)]

    def mutate(self, node: Any, index: int) -> Any:  # noqa: D102
        first, second = self._pairs(node)[index]
        node.children[first], node.children[second] = node.children[second], node.children[first]
        return node

    def _pairs(self, node: Any) -> list[tuple[int, int]]:
        if node.type != "arglist":
            return []
        plain = [i for i, child in enumerate(node.children) if child.type not in ("argument", "operator", "string")]
        pairs = [(i, j) for i, j in itertools.pairwise(plain) if j == i + 2]
        return [(i, j) for i, j in pairs if _code(node.children[i]) != _code(node.children[j])]

    @classmethod
    def examples(cls) -> Any:  # noqa: D102
        return (Example("f(a, b)", "f( b,a)"),)


class DropKeyword(Operator):
    """Leaves out a keyword argument of a call, so that the default takes its place."""

    def mutation_positions(self, node: Any) -> list[Any]:  # noqa: D102
        return [(node.children[i].start_pos, node.children[i].end_pos) for i in self._keywords(node)]

    def mutate(self, node: Any, index: int) -> Any:  # noqa: D102
        i = self._keywords(node)[index]
        at = slice(i, i + 2) if node.type == "arglist" and i + 1 < len(node.children) else slice(i, i + 1)
        del node.children[at]
        return node

    def _keywords(self, node: Any) -> list[int]:
        if node.type not in ("arglist", "trailer"):
            return []
        return [i for i, one in enumerate(node.children) if one.type == "argument" and one.children[1] == "="]

    @classmethod
    def examples(cls) -> Any:  # noqa: D102
        return (Example("f(a, b=1)", "f(a,)"),)


class SwapKeywords(Operator):
    """Swaps the values of two neighbouring keyword arguments of a call, those that are written in the call apart."""

    def mutation_positions(self, node: Any) -> list[Any]:  # noqa: D102
        return [(first.start_pos, second.end_pos) for first, second in self._pairs(node)]

    def mutate(self, node: Any, index: int) -> Any:  # noqa: D102
        first, second = self._pairs(node)[index]
        first.children[2], second.children[2] = second.children[2], first.children[2]
        return node

    def _pairs(self, node: Any) -> list[tuple[Any, Any]]:
        if node.type != "arglist":
            return []
        keywords = [child for child in node.children if child.type == "argument" and child.children[1] == "="]
        named = [one for one in keywords if one.children[2].type in ("name", "atom_expr", "power")]
        pairs = itertools.pairwise(named)
        return [(first, second) for first, second in pairs if _code(first.children[2]) != _code(second.children[2])]

    @classmethod
    def examples(cls) -> Any:  # noqa: D102
        return (Example("f(a=x, b=y)", "f(a=y, b=x)"),)


class OtherKey(Operator):
    """Reads or writes another key: one in quotes is replaced by the next one in the module."""

    def mutation_positions(self, node: Any) -> list[Any]:  # noqa: D102
        return [(node.children[1].start_pos, node.children[1].end_pos)] if self._other(node) else []

    def mutate(self, node: Any, index: int) -> Any:  # noqa: D102, ARG002 - there is one
        node.children[1].value = self._other(node)
        return node

    def _other(self, node: Any) -> str | None:
        if not self._has_key(node):
            return None
        codes = [_code(one.children[1]) for one in ast_nodes(node.get_root_node()) if self._has_key(one)]
        code_by_key = {ast.literal_eval(code): code for code in reversed(codes)}  # in whichever quotes
        keys, own = list(code_by_key)[::-1], ast.literal_eval(_code(node.children[1]))
        return code_by_key[keys[(keys.index(own) + 1) % len(keys)]] if len(keys) > 1 else None

    @staticmethod
    def _has_key(node: Any) -> bool:
        return bool(node.type == "trailer" and node.children[0] == "[" and node.children[1].type == "string")

    @classmethod
    def examples(cls) -> Any:  # noqa: D102
        return (Example("a['x'], a['y']", "a['y'], a['y']"),)


def operators() -> dict[str, list[tuple[str, Operator]]]:
    """Returns the operators by family: at each place one of a family is drawn."""
    families: dict[str, list[tuple[str, Operator]]] = {
        "SwapArguments": [("SwapArguments", SwapArguments())],
        "DropKeyword": [("DropKeyword", DropKeyword())],
        "SwapKeywords": [("SwapKeywords", SwapKeywords())],
        "OtherKey": [("OtherKey", OtherKey())],
    }
    for full in operator_names():
        name = full.removeprefix("core/")
        family, *terms = name.split("_")
        allowed = {"ReplaceBinaryOperator": BINARY, "ReplaceComparisonOperator": COMPARISON}.get(family)
        if allowed is not None and terms[1] not in allowed.get(terms[0], ()):
            continue
        if not name.startswith(LEFT_OUT):
            families.setdefault(family, []).append((name, get_operator(full)()))
    return families


@dataclass(frozen=True)
class Place:
    """A place where a module can be broken, and one way to do it.

    Attributes:
        path: The module's file.
        position: Where, as (line, column) of the beginning and the end.
        name: The operator's.
        operator: What breaks it.
        occurrence: Which of the operator's places in the module it is.
    """

    path: Path
    position: Any
    name: str
    operator: Operator
    occurrence: int


def places_of(path: Path, seed: int) -> list[Place]:
    """Returns a place for each position and family of operators, types left out; of several ways it draws one."""
    tree, rng, found = get_ast(path.read_text(encoding="utf-8")), random.Random(f"{seed} {path.name}"), []
    nodes, annotations = list(ast_nodes(tree)), _annotations(tree)
    for family in operators().values():
        ways: dict[Any, list[Place]] = {}
        for name, operator in family:
            positions = (position for node in nodes for position in operator.mutation_positions(node))
            for occurrence, position in enumerate(positions):
                ways.setdefault(position, []).append(Place(path, position, name, operator, occurrence))
        for (start, _), choices in sorted(ways.items()):
            if not any(first <= start < last for first, last in annotations):
                found.append(rng.choice(choices))
    return found


def mutant_at(place: Place, package: Path) -> Mutant | None:
    """Breaks a module; None if that gives no program, or the same one."""
    source = place.path.read_text(encoding="utf-8")
    text = mutate_code(source, place.operator, place.occurrence)
    if text is None or text == source or not _compiles(text):
        return None
    module, ((line, column), _) = place.path.relative_to(package).as_posix(), place.position
    old, new = source.splitlines(), text.splitlines()
    first = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), len(new) - 1)
    name = f"{module}:{line}:{column} {place.name}"
    return Mutant(name, module, place.name, old[first].strip(), new[first].strip(), text, line)


def _annotations(tree: Any) -> list[tuple[Any, Any]]:
    """Returns where types are: nothing is computed there."""
    found = []
    for node in ast_nodes(tree):
        annotation = node.children[1] if node.type == "annassign" else getattr(node, "annotation", None)
        if node.type in ("param", "funcdef", "annassign") and annotation is not None:
            found.append((annotation.start_pos, annotation.end_pos))
    return found


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def _code(node: Any) -> str:
    return str(node.get_code(include_prefix=False))


def by_hand(path: Path, package: Path) -> list[Mutant]:
    """Returns the mistakes that a file lists as mutants; those whose module has changed are printed and left out."""
    found = []
    for one in tomllib.loads(path.read_text(encoding="utf-8"))["mistake"]:
        name, module, old, new = (one[key] for key in ("name", "module", "was", "is"))
        source = (package / module).read_text(encoding="utf-8")
        if old in source:
            line = 1 + source[: source.index(old)].count("\n")
            found.append(Mutant(f"{module}: {name}", module, "by hand", old, new, source.replace(old, new), line))
        else:
            print(f"stale: {module} no longer says {old!r}; give {name!r} in {path.name} its new text")
    return found
