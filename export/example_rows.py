"""Pass: a training graph's gradient of a whole batch becomes the gradient of each example, a row an example.

In a traced training step every gradient of a weight is reduced over the batch somewhere: by a product ``dY^T X`` whose
inner axis is (example, token), by a sum, or by adding into the rows of an embedding. Each of these places is computed
again without reducing over examples, and what is linear behind it (reshapes, factors, sums of several uses) is applied
to the rows. Forward, slopes and everything that flows through the layers stay as they are, so the rows cost about what
the batch's gradient costs, and memory for [batch, n_params].

Laws: the sum of the rows is the graph's own gradient up to rounding; which axes hold examples is read from the symbols
of the trace and never from sizes; what no rule is written for is refused by its name. A row is computed where the graph
computes the batch's, so that no value lives longer. That examples come first in a merged axis (example, token) is how
every model here is written; it is not assumed of the next one, since the exporter holds each bundle's rows against
batches of one.

Source: Goodfellow 2015, arXiv:1510.01799, whose outer products are summed over an example's tokens here.
``torch.func.vmap`` over the step reads sizes as numbers, so what it gives is right for one batch and length alone.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from export.example_axes import ExampleAxes, UnknownRuleError
from protocol.errors import ConfigError

__all__ = ["ExampleRows"]

aten = torch.ops.aten
Rule = Callable[["_Rows", Node, Tensor], Tensor]


class ExampleRows:
    """The rows of one traced training step; made once, asked with any batch of the step's kind."""

    def __init__(self, graph: GraphModule, *, n_batch: int) -> None:
        """Read which values depend on the examples, and where they are reduced.

        Args:
            graph: a traced step that returns (losses [batch], gradient of their sum [n_params]).
            n_batch: how many of its last placeholders are the batch, each with the examples first.

        Raises:
            ConfigError: the gradient is not reduced over examples in a way that is known here (the model's fault).
        """
        self._graph = graph
        self._axes = ExampleAxes(graph, n_batch=n_batch)
        self._losses, gradient = cast("tuple[Node, Node]", graph.graph.output_node().args[0])
        is_joined = gradient.target is aten.cat.default
        self._pieces = cast("list[Node]", list(cast("Any", gradient.args[0])) if is_joined else [gradient])
        try:
            self._wanted = self._axes.reduced_by(self._pieces, known=_RULES.keys())
        except UnknownRuleError as error:
            raise _refused(error) from error

    def __call__(self, *arguments: object) -> tuple[Tensor, list[Tensor]]:
        """Return losses, float32 [batch], and rows, float32 [batch, n] each, which joined are [batch, n_params].

        Raises:
            ConfigError: as when it was made.
        """
        run = _Rows(self._graph, self._axes, self._wanted)
        try:
            run.run(*arguments)
            rows = [run.flat(piece) for piece in self._pieces]
        except UnknownRuleError as error:
            raise _refused(error) from error
        return cast("Tensor", run.env[self._losses]), rows


def _refused(error: UnknownRuleError) -> ConfigError:
    return ConfigError(
        f"--per-example: in this model the gradient of a trained weight cannot be told apart by example: {error}; "
        "leave it out, devices then take each example as a batch of one"
    )


class _Rows(Interpreter):
    """Runs the graph; beside each value that is reduced over examples it keeps its rows [batch, *shape]."""

    def __init__(self, module: GraphModule, axes: ExampleAxes, wanted: frozenset[Node]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.axes, self._wanted = axes, wanted
        self._rows: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:  # noqa: ANN401 - fx's own
        """Compute the node and, where they are wanted, its rows."""
        value = super().run_node(n)
        if n in self._wanted:
            self._rows[n] = _RULES[n.target](self, n, value)
        return value

    @property
    def n_examples(self) -> int:
        """Return how many examples there are: a symbol while this is traced."""
        n_examples: int = self.env[self.axes.batch].shape[0]
        return n_examples

    def flat(self, node: Node) -> Tensor:
        """Return the rows of a piece of the gradient, [batch, n]; zeros where no example has a part in it."""
        return self.of(node, self.env[node]).reshape(self.n_examples, -1)

    def of(self, node: Node, like: Tensor) -> Tensor:
        """Return the rows of a summand: zeros as ``like`` if it is a constant zero."""
        if self.axes.depends(node):
            return self._rows[node]
        self.axes.refuse_constant(node)
        return torch.zeros_like(like).unsqueeze(0).expand(self.n_examples, *like.shape)

    def value(self, node: object) -> Any:  # noqa: ANN401 - a tensor or a number
        """Return an argument's value."""
        return self.env[node] if isinstance(node, Node) else node

    def aligned(self, node: Node, n_axes: int) -> Tensor:
        """Return rows with axes of one behind the examples, so that they broadcast as the value of ``n_axes`` does."""
        rows = self._rows[node]
        return rows.reshape(self.n_examples, *[1] * (n_axes + 1 - rows.dim()), *rows.shape[1:])

    def split(self, value: Tensor) -> Tensor:
        """Return [example x rest, ...] as [example, rest, ...]."""
        return value.reshape(self.n_examples, value.shape[0] // self.n_examples, *value.shape[1:])


def _product(run: _Rows, node: Node, _value: Tensor) -> Tensor:
    """[m, k] x [k, n]: the inner axis is reduced over examples, or one factor has rows."""
    left, right = cast("tuple[Node, Node]", node.args)
    if run.axes.reduces(node):
        is_turned = left.target is aten.permute.default  # the source lies as it is wanted
        by_example = run.split(run.value(left.args[0]) if is_turned else run.value(left).t())  # [batch, rest, m]
        return torch.bmm(by_example.transpose(1, 2), run.split(run.value(right)))  # [batch, m, n]
    if run.axes.depends(left) and run.axes.depends(right):
        raise UnknownRuleError(node, "it is not linear in an example's gradient")
    if run.axes.depends(left):
        return torch.matmul(run.of(left, run.value(left)), run.value(right))
    return torch.matmul(run.value(left), run.of(right, run.value(right)))


def _sum(run: _Rows, node: Node, value: Tensor) -> Tensor:
    source = cast("Node", node.args[0])
    if run.axes.reduces(node):
        rows = run.split(run.value(source))  # [batch, rest, ...]
        axes = [1] + [axis + 1 for axis in run.axes.summed(node) if axis > 0]
    else:
        rows = run.of(source, run.value(source))
        axes = [axis + 1 for axis in run.axes.summed(node)]
    return rows.sum(axes).reshape(run.n_examples, *value.shape)


def _mean(run: _Rows, node: Node, value: Tensor) -> Tensor:
    source = cast("Node", node.args[0])
    axes = [axis + 1 for axis in run.axes.summed(node)]
    return run.of(source, run.value(source)).mean(axes).reshape(run.n_examples, *value.shape)


def _reshape(run: _Rows, node: Node, value: Tensor) -> Tensor:
    source = cast("Node", node.args[0])
    return run.of(source, run.value(source)).reshape(run.n_examples, *value.shape)


def _permute(run: _Rows, node: Node, value: Tensor) -> Tensor:
    source, axes = cast("tuple[Node, list[int]]", node.args)
    return run.of(source, run.value(source)).permute(0, *[axis % value.dim() + 1 for axis in axes])


def _expand(run: _Rows, node: Node, value: Tensor) -> Tensor:
    return run.aligned(cast("Node", node.args[0]), value.dim()).expand(run.n_examples, *value.shape)


def _same(run: _Rows, node: Node, _value: Tensor) -> Tensor:
    """Of what goes value by value from its first argument."""
    source = cast("Node", node.args[0])
    (_, *rest), options = run.fetch_args_kwargs_from_env(node)
    rows: Tensor = cast("Any", node.target)(run.of(source, run.value(source)), *rest, **options)
    return rows


def _scale(run: _Rows, node: Node, value: Tensor) -> Tensor:
    """A product of rows and of something that is the same for all examples; or rows over it."""
    sides = [
        run.aligned(cast("Node", one), value.dim()) if run.axes.depends(one) else run.value(one)
        for one in node.args[:2]
    ]
    if run.axes.depends(node.args[1]) and (node.target is aten.div.Tensor or run.axes.depends(node.args[0])):
        raise UnknownRuleError(node, "it is not linear in an example's gradient")
    rows: Tensor = cast("Any", node.target)(*sides)
    return rows


def _add(run: _Rows, node: Node, value: Tensor) -> Tensor:
    sides = [
        run.aligned(cast("Node", one), value.dim()) if run.axes.depends(one) else run.of(cast("Node", one), value)
        for one in node.args[:2]
    ]
    rows: Tensor = cast("Any", node.target)(*sides, **node.kwargs)
    return rows


def _where(run: _Rows, node: Node, value: Tensor) -> Tensor:
    if run.axes.depends(node.args[0]):
        raise UnknownRuleError(node, "examples decide which gradient counts")
    sides = [
        run.aligned(cast("Node", one), value.dim()) if run.axes.depends(one) else run.of(cast("Node", one), value)
        for one in node.args[1:3]
    ]
    rows: Tensor = torch.where(run.value(node.args[0]), sides[0], sides[1])
    return rows


def _cat(run: _Rows, node: Node, value: Tensor) -> Tensor:
    parts = cast("list[Node]", node.args[0])
    axis = cast("int", node.args[1]) if len(node.args) > 1 else 0
    return torch.cat([run.of(part, run.value(part)) for part in parts], axis % value.dim() + 1)


def _along(run: _Rows, node: Node, value: Tensor) -> Tensor:
    """Of slices and selections along one axis."""
    source = cast("Node", node.args[0])
    like, *rest = run.fetch_args_kwargs_from_env(node)[0]
    axis, *numbers = rest or [0]
    rows: Tensor = cast("Any", node.target)(run.of(source, like), axis % like.dim() + 1, *numbers)
    return rows.reshape(run.n_examples, *value.shape)


def _into_rows(run: _Rows, node: Node, value: Tensor) -> Tensor:
    """Of an embedding's gradient: slopes [..., width] added into zeros [vocabulary, width] at ids [...]."""
    zeros, (ids,), slopes = cast("tuple[Node, list[Node], Node]", node.args[:3])
    run.axes.refuse_constant(zeros)
    n = run.n_examples
    if run.axes.reduces(node):
        given, at = run.value(slopes), run.value(ids)  # [batch, ..., width], [batch, ...]
    else:
        given = run.of(slopes, run.value(slopes))  # [batch, ..., width]
        at = run.value(ids).unsqueeze(0).expand(n, *run.value(ids).shape)
    own = torch.arange(n, device=at.device).reshape(n, *[1] * (at.dim() - 1))  # [batch, 1, ...]
    flat = (own * value.shape[0] + at).reshape(-1)  # of all examples' tables in one
    table = torch.zeros(n * value.shape[0], *value.shape[1:], dtype=value.dtype, device=value.device)
    table = torch.index_put(table, [flat], given.reshape(-1, *value.shape[1:]), accumulate=True)
    return table.reshape(n, *value.shape)


_RULES: dict[Any, Rule] = {
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.sum.dim_IntList: _sum,
    aten.mean.dim: _mean,
    aten.where.self: _where,
    aten.permute.default: _permute,
    aten.expand.default: _expand,
    aten.mul.Tensor: _scale,
    aten.mul.Scalar: _scale,
    aten.div.Tensor: _scale,
    aten.div.Scalar: _scale,
    aten.add.Tensor: _add,
    aten.sub.Tensor: _add,
    aten.cat.default: _cat,
    aten.slice.Tensor: _along,
    aten.select.int: _along,
    aten.index_put.default: _into_rows,
    aten._unsafe_index_put.default: _into_rows,  # noqa: SLF001 - torch's name
    **dict.fromkeys(
        (
            aten.view.default,
            aten.reshape.default,
            aten._unsafe_view.default,  # noqa: SLF001
            aten.unsqueeze.default,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
        ),
        _reshape,
    ),
    **dict.fromkeys(
        (
            aten.clone.default,
            aten.alias.default,
            aten.neg.default,
            aten._to_copy.default,  # noqa: SLF001
            aten.constant_pad_nd.default,
        ),
        _same,
    ),
}
