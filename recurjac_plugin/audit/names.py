"""The names of the operators that are audited, for who needs no more: what has specimens needs torch."""

from __future__ import annotations

OPERATORS = (
    *("Relu", "LeakyRelu", "PRelu", "Abs", "HardTanh", "HardSigmoid", "HardSwish", "Elu", "Celu", "Selu", "Tanh"),
    *("Sigmoid", "Logistic", "SiLU", "LogSigmoid", "Softplus", "Mish", "Exp", "Atan", "Softsign", "Erf", "Gelu"),
    *("Sin", "Cos", "Tan", "Log", "Sqrt", "Sqr", "Reciprocal", "Pow", "Sign", "Floor", "Ceil", "Round", "Add"),
    *("Sub", "Neg", "ReduceSum", "ReduceMean", "Mul", "Div", "Linear", "MatMul", "BatchNormalization", "Max"),
    *("Min", "ReduceMax", "ReduceMin", "MaxPool", "Softmax", "ReduceLogSumExp", "Conv", "ConvTranspose", "Pad"),
    *("AveragePool", "GlobalAveragePool", "Reshape", "ATenUnflatten", "Flatten", "Unsqueeze", "Squeeze", "Expand"),
    *("Transpose", "Identity", "Dropout", "Cast", "Concat", "ConcatFromSequence", "Slice", "Split", "Gather"),
)
"""In the order of the specimens; a test compares the two."""
