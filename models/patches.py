"""Patches cut by a matrix product: what a convolution with kernels that do not overlap is.

Its backward is one product too, and products are what the later passes know how to make small.
"""

from torch import Tensor, nn
from torch.nn import functional

from protocol.errors import ConfigError

__all__ = ["cut_by_products"]


def cut_by_products(model: nn.Module) -> None:
    """Let every convolution of ``model`` work as a product from now on.

    Raises:
        ConfigError: its patches overlap.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = _Patches(module)  # type: ignore[method-assign,assignment]


class _Patches:
    """A convolution whose kernels do not overlap, as reshapes and one product: its backward is one product too."""

    def __init__(self, conv: nn.Conv2d) -> None:
        if conv.stride != conv.kernel_size or conv.padding != (0, 0) or conv.groups != 1:
            message = f"patches that overlap are not supported (kernel {conv.kernel_size}, stride {conv.stride})"
            raise ConfigError(message)
        self._conv = conv

    def __call__(self, pixels: Tensor) -> Tensor:
        high, wide = self._conv.kernel_size
        n, c, height, width = pixels.shape
        rows, columns = height // high, width // wide
        cut = pixels.reshape(n, c, rows, high, columns, wide).permute(0, 2, 4, 1, 3, 5)
        flat = cut.reshape(n, rows * columns, c * high * wide)  # [batch, patch, values]
        weight = self._conv.weight.reshape(self._conv.out_channels, -1)  # [out, values]
        out = functional.linear(flat, weight, self._conv.bias)  # [batch, patch, out]
        return out.transpose(1, 2).reshape(n, -1, rows, columns)
