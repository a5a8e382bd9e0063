"""How any torch module becomes operations, counted by the rules of `nas.networks.operations`.

`torch.export` exports the module; only shapes are computed. Each step of the graph counts as what a phone runtime makes
of it:

- A batch norm next to a convolution or a linear layer is folded into that layer. Factors and shifts per channel are
  folded as well.
- A tensor that depends on parameters alone is a constant. Only its size counts, as weights.
- Steps that rearrange a tensor cost the elements that they move. Between two computing steps a move counts once,
  however many views and permutations it takes. Nothing moves where height and width are merged or split, where
  channels are sliced, or where an attention product takes a transposed operand. Joining tensors moves their elements.
- A grouped convolution is `dense` and has the channels of one group. It is `depthwise` where each input channel is a
  group.
- Other norms (kind `norm`) read and write the tensor. Pooling and sums read it. Resizing counts as a move.

A step without a rule is an error and never counts as free.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

from nas.errors import InputError
from nas.networks.operations import Operation

__all__ = ["Traced", "traced", "traced_operations"]

_SAME = {"alias", "clone", "contiguous", "dropout", "detach", "expand", "expand_as", "to"}
_SLICES = {"chunk", "getitem", "select", "slice", "split", "split_with_sizes", "unbind"}
_VIEWS = {"flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view"}
_PERMUTATIONS = {"permute", "transpose"}
_JOINS = {"cat", "stack"}
_REARRANGING = _SAME | _SLICES | _VIEWS | _PERMUTATIONS | _JOINS
_PRODUCTS = {"bmm", "matmul", "scaled_dot_product_attention"}
_CONVOLUTIONS = {"conv1d", "conv2d"}
_WEIGHTED = _CONVOLUTIONS | {"linear"}
_REDUCTIONS = {"adaptive_avg_pool2d", "avg_pool2d", "linalg_vector_norm", "max_pool2d", "mean", "sum"}
_NORMS = {"group_norm", "layer_norm"}
_RESIZES = {"pad", "upsample_bilinear2d", "upsample_nearest2d"}
_AFFINE = {"add", "div", "mul", "sub"}
_ELEMENTWISE = _AFFINE | {
    "clamp_min",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "relu",
    "sigmoid",
    "silu",
}
_COMPUTING = _WEIGHTED | _PRODUCTS | {"softmax", "batch_norm"} | _NORMS | _REDUCTIONS | _RESIZES | _ELEMENTWISE


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A traced module.

    Attributes:
        operations: in the order in which they run.
        gates: products of two computed tensors of equal size, element by element.
        scalings: products of computed tensors of different sizes, such as squeeze-and-excitation.
    """

    operations: tuple[Operation, ...]
    gates: int
    scalings: int


def traced_operations(module: nn.Module, *inputs: Tensor) -> tuple[Operation, ...]:
    """The operations of a module in eval mode for these inputs at batch 1.

    A rearrangement comes before the step that needs it. For the deployed form (`fuse`) of a network of this project the
    operations equal those of `nas.networks.operations`, apart from their order. Takes about a second.

    Raises:
        InputError: the module has a step without a rule; the text names the step.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> block = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()).eval()
        >>> for operation in traced_operations(block, torch.zeros(1, 8, 4, 4)):
        ...     print(operation.kind, operation.macs, operation.weights, operation.reads, operation.writes)
        dense 2048 144 128 256
        elementwise 0 0 256 256
    """
    return traced(module, *inputs).operations


def traced(module: nn.Module, *inputs: Tensor) -> Traced:
    """The operations of a module, as `traced_operations` gives them, and how many products are among them.

    Raises:
        InputError: the module has a step without a rule; the text names the step.
    """
    with torch.no_grad():
        program = torch.export.export(module, inputs)
    users = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and hasattr(spec.arg, "name")
    }
    trace = _Trace(list(program.graph.nodes), users)
    operations = tuple(trace.operations())
    equal = [len(set(map(_elements, factors))) == 1 for factors in trace.products()]
    return Traced(operations=operations, gates=sum(equal), scalings=len(equal) - sum(equal))


class _Trace:
    """Reads the operations of one exported graph.

    Args:
        nodes: in the order they run.
        inputs: names of the placeholders that are inputs of the module and not parameters.
    """

    def __init__(self, nodes: list[Node], inputs: set[str]) -> None:
        self.nodes = nodes
        self.inputs = inputs
        self.constants: set[Node] = set()
        self.moved: set[Node] = set()

    def operations(self) -> Iterator[Operation]:
        for node in self.nodes:
            operands = node.all_input_nodes
            if node.op == "placeholder":
                if node.name not in self.inputs:
                    self.constants.add(node)
            elif all(operand in self.constants for operand in operands):
                self.constants.add(node)
            elif _name(node) not in _REARRANGING:
                for operand in operands:
                    if operand not in self.constants:
                        yield from self._movement(operand, into_product=_name(node) in _PRODUCTS)
                if node.op != "output":
                    yield from self._computed(node)

    def products(self) -> Iterator[tuple[Node, Node]]:
        """The factors of each product of two computed tensors; `operations` has to run first."""
        for node in self.nodes:
            if _name(node) == "mul":
                factors = [operand for operand in node.all_input_nodes if operand not in self.constants]
                if len(factors) == 2:
                    yield factors[0], factors[1]

    def _movement(self, node: Node, *, into_product: bool) -> Iterator[Operation]:
        """The move between a tensor and the step that computed it, if there is one and it is not counted yet."""
        while _name(node) in _REARRANGING and not _moves(node, into_product=into_product):
            node = next(operand for operand in node.all_input_nodes if operand not in self.constants)
        if _name(node) in _REARRANGING and node not in self.moved:
            self.moved.add(node)
            yield Operation(kind="reshape", reads=_elements(node), writes=_elements(node))

    def _computed(self, node: Node) -> Iterator[Operation]:
        name = _name(node)
        if name not in _COMPUTING:
            raise InputError(f"no rule for the step {node.target}; see nas/networks/modules/trace.py")
        operands = [operand for operand in node.all_input_nodes if operand not in self.constants]
        reads, writes = sum(map(_elements, operands)), _elements(node)
        if name in _WEIGHTED:
            yield self._weighted(node)
        elif name == "scaled_dot_product_attention":
            yield from _attention(*operands[:3])
        elif name in _PRODUCTS:
            yield self._product(node)
        elif name == "softmax":
            yield Operation(kind="softmax", reads=reads, writes=writes)
        elif name in _NORMS:
            yield Operation(kind="norm", weights=self._constant_elements(node), reads=reads, writes=writes)
        elif name == "batch_norm":
            if not self._folds(node):
                yield Operation(kind="elementwise", weights=2 * _shape(node)[1], reads=reads, writes=writes)
        elif name in _REDUCTIONS:
            if writes < reads:
                yield Operation(kind="pool", reads=reads, writes=writes)
        elif name in _RESIZES:
            yield Operation(kind="reshape", reads=reads, writes=writes)
        else:
            constant = self._constant_elements(node)
            # A factor or shift per channel folds into the weights next to it. A whole map (an attention bias) does not.
            if name not in _AFFINE or len(operands) > 1 or constant > max(_shape(node)):
                yield Operation(kind="elementwise", weights=constant, reads=reads, writes=writes)

    def _weighted(self, node: Node) -> Operation:
        source, weight = node.all_input_nodes[:2]
        if weight not in self.constants:
            raise InputError(
                f"no rule for the step {node.target} with weights that are computed; see nas/networks/modules/trace.py"
            )
        outputs, group_inputs, *kernel = _shape(weight)
        groups = _groups(node)
        inputs = groups * group_inputs
        biased = len(node.all_input_nodes) > 2 or any(self._folds(user) for user in node.users)
        is_depthwise = 1 < groups == inputs
        is_image = source.name in self.inputs and inputs == 3
        return Operation(
            kind="depthwise" if is_depthwise else "dense",
            macs=group_inputs * prod(kernel) * _elements(node),
            weights=_elements(weight) + (outputs if biased else 0),
            inputs=0 if is_image else inputs if is_depthwise else group_inputs,
            outputs=outputs if is_depthwise else outputs // groups,
            reads=_elements(source),
            writes=_elements(node),
        )

    def _product(self, node: Node) -> Operation:
        left, right = node.args[:2]
        assert isinstance(left, Node) and isinstance(right, Node)
        inputs, outputs = _shape(left)[-1], _shape(right)[-1]
        reads = sum(_elements(operand) for operand in (left, right) if operand not in self.constants)
        macs, writes = inputs * _elements(node), _elements(node)
        if weights := self._constant_elements(node):
            return Operation(
                kind="dense", macs=macs, weights=weights, inputs=inputs, outputs=outputs, reads=reads, writes=writes
            )
        return Operation(kind="product", macs=macs, reads=reads, writes=writes)

    def _folds(self, node: Node) -> bool:
        """Whether a step is a batch norm that folds into a neighbouring layer.

        A convolution or a linear layer before the norm takes it in. After the norm, only linear layers can.
        """
        if _name(node) != "batch_norm":
            return False
        before = node.all_input_nodes[0]
        if _name(before) in _WEIGHTED and len(before.users) == 1:
            return True
        # A convolution after the norm would have to pad with the shift. So only linear layers fold, as in a classifier.
        return all(_name(user) == "linear" for user in _readers(node))

    def _constant_elements(self, node: Node) -> int:
        return sum(_elements(operand) for operand in node.all_input_nodes if operand in self.constants)


def _attention(query: Node, key: Node, value: Node) -> Iterator[Operation]:
    tokens = _shape(key)[-2]
    scores = prod(_shape(query)[:-1]) * tokens
    width, value_width = _shape(query)[-1], _shape(value)[-1]
    yield Operation(kind="product", macs=scores * width, reads=_elements(query) + _elements(key), writes=scores)
    yield Operation(kind="softmax", reads=scores, writes=scores)
    attended = scores // tokens * value_width
    yield Operation(kind="product", macs=scores * value_width, reads=scores + _elements(value), writes=attended)


def _moves(node: Node, *, into_product: bool) -> bool:
    """Whether a rearranging step moves elements to other places."""
    name = _name(node)
    if name in _JOINS:
        return True
    if name in _SAME | _SLICES:
        return False
    before, after = _shape(node.all_input_nodes[0]), _shape(node)
    if name in _VIEWS:
        return before[:2] != after[:2]
    if name == "transpose":
        order = list(range(len(before)))
        first, second = node.args[1:3]
        order[first], order[second] = order[second], order[first]  # type: ignore[index]
    else:
        order = [int(axis) % len(before) for axis in node.args[1]]  # type: ignore[union-attr, arg-type]
    if into_product and order == [*range(len(before) - 2), len(before) - 1, len(before) - 2]:
        return False
    return sorted(kept := [axis for axis in order if before[axis] > 1]) != kept


def _readers(node: Node) -> Iterator[Node]:
    """The steps that read a tensor, directly or through steps that leave it the same."""
    for user in node.users:
        if _name(user) in _SAME:
            yield from _readers(user)
        else:
            yield user


def _name(node: Node) -> str:
    """Name of the called operator, such as `relu`, in place or not; the kind of node if it is not a call."""
    if node.op != "call_function":
        return node.op
    if node.target is operator.getitem:
        return "getitem"
    return str(node.target).split(".")[1].removesuffix("_") if "." in str(node.target) else str(node.target)


def _groups(node: Node) -> int:
    """Groups of a convolution; 1 for a linear layer."""
    if _name(node) not in _CONVOLUTIONS:
        return 1
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    assert isinstance(groups, int)
    return groups


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _elements(node: Node) -> int:
    return prod(_shape(node))
