"""Networks for other programs: ONNX, `torch.export`, state dicts; and sparse kernels where they are measured to pay."""

from sparsewood.exporting.api import export
from sparsewood.exporting.int8 import Dynamic, Static, quantize_int8
from sparsewood.exporting.int8_layers import Int8Layer
from sparsewood.exporting.int8_network import Agreement, Int8Network
from sparsewood.exporting.kernel_report import LayerChoice, SparseKernels
from sparsewood.exporting.onnx_model import onnx_model, session
from sparsewood.exporting.report import Difference, ExportReport, Signature
from sparsewood.exporting.sparse import sparse_kernels

__all__ = [
    "Agreement",
    "Difference",
    "Dynamic",
    "ExportReport",
    "Int8Layer",
    "Int8Network",
    "LayerChoice",
    "Signature",
    "SparseKernels",
    "Static",
    "export",
    "onnx_model",
    "quantize_int8",
    "session",
    "sparse_kernels",
]
