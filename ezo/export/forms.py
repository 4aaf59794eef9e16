"""What a network may have that its layers' C forms don't: refused by name."""

from ezo.int8.layers import Conv2d
from ezo.int8.maps import ReLU
from ezo.int8.network import INPUT, Network, Node


def check_form(network: Network, node: Node) -> None:
    """Raises:
    ValueError: the node has no C form; the message names it.
    """
    layer, names = node.layer, [INPUT, *(other.name for other in network.nodes)]
    what = type(layer).__name__
    if len(node.inputs) > 1 or node.inputs[0] != names[names.index(node.name) - 1]:
        _refuse(
            node, f"{what} of {' and '.join(node.inputs)}: the C forms are of a chain of layers"
        )
    if isinstance(layer, ReLU) and layer.most:
        _refuse(node, f"{what}: ReLU has a C form, without a bound")
    if isinstance(layer, Conv2d):
        high, wide = layer.weight.shape[2:]
        even = isinstance(layer.padding, int)
        if high != wide or not even or layer.stride != (1, 1) or layer.groups != 1:
            sizes = f"a kernel of {high} x {wide}, a padding of {layer.padding}, a stride of "
            sizes += f"{layer.stride} and {layer.groups} groups"
            plain = "square ones of stride 1, evenly padded, in one group have a C form"
            _refuse(node, f"{what} with {sizes}: {plain}")


def _refuse(node: Node, why: str) -> None:
    raise ValueError(
        f"can't export layer {node.name}, {why}; a file in ezo/export/runtime gives a layer one"
    )
