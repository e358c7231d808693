"""Rules for the size of files and functions and for docstrings, which ruff has not.

- A file has at most 400 lines. File formats and kernels are exempt: each is one algorithm.
- A function has at most 60 lines, its docstring apart, and 8 parameters. Where it needs more, a comment above it that
  begins with ``size:`` says why. The options of a command do not count, nor do the pointers that a kernel takes.
- A docstring has at least four words and does not begin with "What". That of a module is a noun phrase.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNELS = ("vplface/softmax/triton_tiles.py", "vplface/softmax/numba_tiles.py", "vplface/softmax/fused/kernels.py")
MOST_LINES, MOST_IN_A_FUNCTION, MOST_PARAMETERS, FEWEST_WORDS = 400, 60, 8, 4

Function = ast.FunctionDef | ast.AsyncFunctionDef


def offences(path: str, text: str) -> Iterator[str]:
    """Lines of the form ``path name: what is wrong``."""
    lines, tree = text.splitlines(), ast.parse(text)
    if len(lines) > MOST_LINES and not path.startswith("vplface/data/formats/") and path not in KERNELS:
        yield f"{path}: more than {MOST_LINES} lines"
    for name, node in _documented(tree):
        docstring = ast.get_docstring(node)
        if docstring is not None and len(docstring.split()) < FEWEST_WORDS:
            yield f"{path}{name}: docstring of fewer than {FEWEST_WORDS} words"
        elif docstring is not None and docstring.startswith("What"):
            yield f'{path}{name}: docstring that begins with "What"'
        if isinstance(node, Function) and not _has_reason(node, lines):
            if _length(node) > MOST_IN_A_FUNCTION:
                yield f"{path}{name}: more than {MOST_IN_A_FUNCTION} lines"
            if len(_parameters(node)) > MOST_PARAMETERS and path not in KERNELS:
                yield f"{path}{name}: more than {MOST_PARAMETERS} parameters"


def _documented(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.Module | ast.ClassDef | Function]]:
    """The module and each class and function in it, with dotted names."""
    if isinstance(node, ast.Module):
        yield "", node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | Function):
            name = f"{prefix}.{child.name}" if prefix else f" {child.name}"
            yield name, child
            yield from _documented(child, name)
        else:
            yield from _documented(child, prefix)


def _has_reason(function: Function, lines: list[str]) -> bool:
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    above = first - 2
    while above >= 0 and lines[above].strip().startswith("#"):
        if lines[above].strip().startswith("# size:"):
            return True
        above -= 1
    return False


def _length(function: Function) -> int:
    """Lines of the signature and the body, without the docstring; of a command, without its options."""
    length = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        length -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    if _is_command(function):
        length -= function.body[0].lineno - function.lineno
    return length


def _parameters(function: Function) -> list[ast.arg]:
    if _is_command(function):
        return []
    every = function.args
    given = [*every.posonlyargs, *every.args, *every.kwonlyargs, *filter(None, (every.vararg, every.kwarg))]
    return [each for each in given if each.arg not in ("self", "cls")]


def _is_command(function: Function) -> bool:
    """Whether typer reads its parameters from the command line."""
    return "typer." in ast.unparse(function.args)


def main() -> int:
    """Print what is wrong; 0 where nothing is."""
    found = [
        offence
        for path in sorted((ROOT / "src").rglob("*.py"))
        for offence in offences(path.relative_to(ROOT / "src").as_posix(), path.read_text(encoding="utf-8"))
    ]
    for offence in found:
        print(f"src/{offence}; see tools/source_rules.py")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
