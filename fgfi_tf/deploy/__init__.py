"""Trained detectors as files for devices and servers, checked against what they were made of."""
