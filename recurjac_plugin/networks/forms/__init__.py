"""Rewrites of ONNX graphs: constants folded, operators taken apart, the batch kept as the first axis."""
