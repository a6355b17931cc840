"""Figures of the source: comments, shapes in signatures, lengths, options, first words.

``python tests/figures.py [FOLDER ...]`` prints a table and the place of every exception; without a
folder it counts over `core`.  `test_architecture` holds the thresholds.

How things are counted:
    comments: lines with a comment, alone or beside code, over lines of code.  Pragmas (`noqa`,
        `fmt`, `type`, `pyright`) are no comments, docstrings are neither comment nor code.
    signatures: each `Tensor` in a parameter's or result's annotation of a public function or
        method must stand in a jaxtyping subscript, ``Float[Tensor, " b d"]``.
    fields: the same of public dataclasses and named tuples.
    long: functions of more than 60 lines, decorators left out, docstring included.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 60
NUMERICAL = ("core/sampler", "core/objective", "core/network", "core/inverse")
LOOPS = frozenset(
    {
        "core/sampler/adaptive.py:dormand_prince",
        "core/sampler/adaptive_sde.py:improved_euler",
        "core/sampler/likelihood.py:nll",
        "core/sampler/likelihood.py:discrete_bound",
    }
)
"""Numerical loops that may be longer, since cutting them would hide the algorithm."""
PRAGMAS = ("noqa", "fmt:", "type:", "pyright:", "pragma:")


@dataclass
class Figures:
    """Counts over some files; the lists hold ``file:line  name``.

    Args:
        code: lines of code.
        comments: lines that carry a comment.
        signature_tensors: tensors in public signatures; `bare_tensors` of them have no shape.
        field_tensors: tensors in public fields; `bare_fields` of them have no shape.
        long: functions of more than 60 lines.
        kwargs: public functions with ``**kwargs``.
        what: docstrings that begin with "What".
    """

    code: int = 0
    comments: int = 0
    signature_tensors: int = 0
    field_tensors: int = 0
    bare_tensors: list[str] = field(default_factory=list)
    bare_fields: list[str] = field(default_factory=list)
    long: list[str] = field(default_factory=list)
    kwargs: list[str] = field(default_factory=list)
    what: list[str] = field(default_factory=list)

    @property
    def comment_share(self) -> float:
        """Lines with a comment over lines of code."""
        return self.comments / max(1, self.code)

    def add(self, file: Path) -> None:
        """Count one file in."""
        text = file.read_text(encoding="utf-8")
        where = str(file.resolve().relative_to(ROOT))
        tree = ast.parse(text)
        self._count_lines(text, tree)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                words = (ast.get_docstring(node) or "").split()
                if words and words[0].strip(",:") == "What":
                    self.what.append(f"{where}:{getattr(node, 'lineno', 1)}")
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONGEST and f"{where}:{node.name}" not in LOOPS:
                    self.long.append(f"{where}:{node.lineno}  {node.name}, {length} lines")
        for owner, function in public_functions(tree):
            self._count_signature(function, f"{where}:{function.lineno}  {owner}{function.name}")
        for kind in public_records(tree):
            for line in kind.body:
                if isinstance(line, ast.AnnAssign):
                    every, bare = tensors(line.annotation)
                    self.field_tensors += every
                    name = ast.unparse(line.target)
                    self.bare_fields += [f"{where}:{line.lineno}  {kind.name}.{name}"] * bare

    def _count_lines(self, text: str, tree: ast.Module) -> None:
        documents: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
                documents.update(range(node.lineno, (node.end_lineno or 0) + 1))
        code: set[int] = set()
        layout = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT,
                  tokenize.ENCODING, tokenize.ENDMARKER}  # fmt: skip
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                words = token.string.lstrip("#! ")
                self.comments += bool(words) and not words.startswith(PRAGMAS)
            elif token.type not in layout:
                code.update(range(token.start[0], token.end[0] + 1))
        self.code += len(code - documents)

    def _count_signature(self, function: ast.FunctionDef, where: str) -> None:
        given = function.args
        named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        named += [one for one in (given.vararg, given.kwarg) if one]
        if given.kwarg:
            self.kwargs.append(where)
        for name, annotation in [(a.arg, a.annotation) for a in named] + [("", function.returns)]:
            every, bare = tensors(annotation)
            self.signature_tensors += every
            self.bare_tensors += [f"{where}({name})" if name else f"{where} ->"] * bare


def tensors(annotation: ast.expr | None) -> tuple[int, int]:
    """How many tensors an annotation names, and how many of them without a shape."""
    match annotation:
        case None:
            return 0, 0
        case ast.Constant(value=str(text)):
            return tensors(ast.parse(text, mode="eval").body)
        case ast.Subscript(slice=ast.Tuple(elts=[kind, ast.Constant(value=str())])):
            return tensors(kind)[0], 0
        case ast.Name(id="Tensor") | ast.Attribute(attr="Tensor"):
            return 1, 1
    counts = [tensors(n) for n in ast.iter_child_nodes(annotation) if isinstance(n, ast.expr)]
    return sum(every for every, _ in counts), sum(bare for _, bare in counts)


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions of a module and the methods of its public classes, with their class's name."""
    owners = [("", tree.body)]
    owners += [
        (f"{node.name}.", node.body)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    for owner, body in owners:
        for node in body:
            if isinstance(node, ast.FunctionDef):
                special = node.name.startswith("__") and node.name.endswith("__")
                if special or not node.name.startswith("_"):
                    yield owner, node


def public_records(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """The public dataclasses and named tuples of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            marks = [ast.unparse(mark) for mark in (*node.decorator_list, *node.bases)]
            if any(mark.startswith("dataclass") or mark == "NamedTuple" for mark in marks):
                yield node


def count(*folders: Path | str) -> Figures:
    """The figures over all Python files below some folders of the repository."""
    figures = Figures()
    for folder in folders:
        path = ROOT / folder
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            figures.add(file)
    return figures


def _row(name: str, of: Figures) -> str:
    shaped, fields = len(of.bare_tensors), len(of.bare_fields)
    return (
        f"{name:<18}{of.code:>7}{of.comment_share:>9.1%}"
        f"{of.signature_tensors - shaped:>7}/{of.signature_tensors:<5}"
        f"{of.field_tensors - fields:>6}/{of.field_tensors:<5}"
        f"{len(of.long):>5}{len(of.kwargs):>8}{len(of.what):>6}"
    )


def main(folders: list[str]) -> None:
    """Print the table, then the exceptions."""
    wanted = [str(Path(f).resolve().relative_to(ROOT)) for f in folders] or ["core"]
    print(f"{'':<18}{'code':>7}{'comment':>9}{'signatures':>13}{'fields':>12}{'long':>5}"
          f"{'kwargs':>8}{'What':>6}")  # fmt: skip
    for folder in wanted:
        for inner in sorted(p for p in (ROOT / folder).iterdir() if p.is_dir()):
            if any(inner.rglob("*.py")):
                name = str(inner.relative_to(ROOT))
                print(_row(name, count(name)))
        print(_row(f"{folder}, all", count(folder)))
    print()
    whole = count(*wanted)
    for title, found in (
        ("no shape in a signature", whole.bare_tensors),
        ("no shape in a field", whole.bare_fields),
        (f"more than {LONGEST} lines", whole.long),
        ("**kwargs", whole.kwargs),
        ('begins with "What"', whole.what),
    ):
        for line in found:
            print(f"{title}: {line}")


if __name__ == "__main__":
    main(sys.argv[1:])
