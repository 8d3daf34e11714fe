from . import calibration as calibration
from . import comparison as comparison
from . import litert as litert
from . import onnx as onnx
from . import stablehlo as stablehlo
