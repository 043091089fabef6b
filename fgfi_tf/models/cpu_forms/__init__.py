"""Other forms of operations, which CPUs compute faster, with the same values. A first reader may skip them.

``halves`` computes a wide convolution of one image as a batch of two, ``depthwise`` has gradients of its own,
``channels`` fills channels up to a multiple of a vector register, and ``int8`` is for int8 files alone.
``devices.prefers_gpu_form`` says where the plain operation is taken instead.
"""
