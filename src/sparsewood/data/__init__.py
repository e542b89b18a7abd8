"""Data sets, each in disjoint training, validation and test parts, and loaders of their batches."""

from sparsewood.data.augment import Augmentation, CropFlip, ResizedCrop, SimCLRViews, UnitMemViews
from sparsewood.data.cifar import cifar10, cifar100
from sparsewood.data.cub import cub200
from sparsewood.data.digits import digits
from sparsewood.data.factory import Wrapped, load_data, split_of
from sparsewood.data.folders import image_folder
from sparsewood.data.images import ImageFiles
from sparsewood.data.loader import Loader
from sparsewood.data.mnist import fashion_mnist, mnist
from sparsewood.data.part import Normalization, Part, Pixels, Source, View
from sparsewood.data.sampling import balanced
from sparsewood.data.split import HeldOut, Split, Subsets, batches

# The catalogue: what returns a split. Parts, loaders and augmentations are imported by name.
__all__ = ["cifar10", "cifar100", "cub200", "digits", "fashion_mnist", "image_folder", "mnist"]
