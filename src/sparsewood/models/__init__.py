"""Small reference models."""

from sparsewood.models.resnet_cifar import resnet20, resnet_cifar
from sparsewood.models.small_conv import small_conv

__all__ = ["resnet20", "resnet_cifar", "small_conv"]
