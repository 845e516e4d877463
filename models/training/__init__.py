"""Training recipe: labelled sources → data set → ultralytics run → measured ONNX in the registry."""
