"""ONNX files as torch modules that auto_LiRPA can trace.

In the order in which a file passes the modules: ``onnx_file`` reads and checks it. ``rewrite`` brings its graph into a
plain form, which onnx2pytorch reads right, by the passes of ``forms``. ``converter`` imports onnx2pytorch, which makes
a torch module of that. ``static`` replaces operators whose parameters are constants by modules that the host traces
well. ``session`` runs the file as it is in onnxruntime: the module is used only if its outputs are the same. ``onnx``
(`load_onnx`) does all this; ``supported`` lists the operators that come through.
"""
