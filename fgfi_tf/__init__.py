"""Fine-grained feature imitation for object detectors in TensorFlow/Keras."""

__version__ = "0.1.0"
