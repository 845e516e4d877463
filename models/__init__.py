"""Weights of the detectors: registry, ONNX files, model cards and the training recipe."""
