"""Deployment of trained models: ONNX export, decisions and galleries."""
