"""Models of other tools -> a list of layers and their parameters, without running or unpickling anything.

`graph` says what a file holds, `onnx_file` and `pt2_file` read it, `onnx_ops` and `aten_ops` say what each operation
means, `rules` recognise the layers, `importing` puts it together. Needs numpy, and for ONNX files the package onnx.
"""
