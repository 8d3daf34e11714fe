"""Models for other runtimes: StableHLO, ONNX and LiteRT, and a comparison of them."""
