"""Reference models: functions that map images to logits, with counts and sources in their documentation."""

from sparsewood.models.convnet import convnet
from sparsewood.models.densenet_cifar import densenet_cifar
from sparsewood.models.lenet5 import lenet5_caffe
from sparsewood.models.mlp import lenet_300_100, mlp
from sparsewood.models.named_convnets import (
    alexnet_cifar10,
    alexnet_imagenet,
    medium_conv,
    morcos_conv,
    morcos_convfc,
)
from sparsewood.models.preactivated import preact_resnet, wide_resnet
from sparsewood.models.recurrent import row_rnn
from sparsewood.models.resnet import resnet18, resnet34, resnet50
from sparsewood.models.resnet9 import resnet9
from sparsewood.models.resnet_cifar import resnet20, resnet_cifar
from sparsewood.models.small_conv import small_conv
from sparsewood.models.sources import load_model
from sparsewood.models.vgg import vgg

__all__ = [
    "alexnet_cifar10",
    "alexnet_imagenet",
    "convnet",
    "densenet_cifar",
    "lenet5_caffe",
    "lenet_300_100",
    "medium_conv",
    "mlp",
    "morcos_conv",
    "morcos_convfc",
    "preact_resnet",
    "resnet9",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
    "resnet_cifar",
    "row_rnn",
    "small_conv",
    "vgg",
    "wide_resnet",
]
