"""Random weights of SSD and VGG by torchvision's names, and narrow detectors to fill with them."""

import numpy as np

from fgfi_tf.models import registry

WIDTH = 1 / 16
# Indices of the convolutions in the sequential VGG, and their channels.
FEATURES = {
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "vgg11": (0, 3, 6, 8, 11, 13, 16, 18),
}
CHANNELS = {
    "vgg16": (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    "vgg11": (64, 128, 256, 256, 512, 512, 512, 512),
}
IN_CONV5 = {"vgg16": 3, "vgg11": 2}
BOXES = (4, 6, 6, 6, 4, 4)


def tiny(variant="vgg16", class_names=("a", "b", "c")):
    return registry.build(f"ssd300_{variant}", input_size=(300, 300), class_names=class_names, width=WIDTH)


class State(dict):
    """Random arrays by torchvision's names."""

    def __init__(self, width=1.0):
        super().__init__()
        self.width, self.before = width, 3

    def of(self, channels):
        return max(1, round(channels * self.width))

    def conv(self, name, channels, size, before=None):
        shape = (channels, self.before if before is None else before, size, size)
        random = np.random.default_rng(len(self))
        self[f"{name}.weight"] = random.standard_normal(shape, np.float32) * np.float32(0.1)
        self[f"{name}.bias"] = random.standard_normal(channels, np.float32)
        self.before = channels


def detector_state(variant="vgg16", classes=3, width=WIDTH):
    state, places, sources = State(width), FEATURES[variant], []
    extra = len(places) - IN_CONV5[variant]
    for number, (place, channels) in enumerate(zip(places, CHANNELS[variant], strict=True)):
        in_extra = number >= extra
        if number == extra:
            sources.append(state.before)
        name = f"backbone.extra.0.{1 + 2 * (number - extra)}" if in_extra else f"backbone.features.{place}"
        state.conv(name, state.of(channels), 3)
    block = f"backbone.extra.0.{1 + 2 * IN_CONV5[variant]}"
    state.conv(f"{block}.1", state.of(1024), 3)
    state.conv(f"{block}.3", state.of(1024), 1)
    sources.append(state.before)
    blocks = ((256, 512), (128, 256), (128, 256), (128, 256))
    for number, (narrow, wide) in enumerate(blocks, start=1):
        state.conv(f"backbone.extra.{number}.0", state.of(narrow), 1)
        state.conv(f"backbone.extra.{number}.2", state.of(wide), 3)
        sources.append(state.before)
    state["backbone.scale_weight"] = np.linspace(8, 30, sources[0], dtype=np.float32)
    for head, outputs in (("classification", classes + 1), ("regression", 4)):
        for level, (channels, boxes) in enumerate(zip(sources, BOXES, strict=True)):
            state.conv(f"head.{head}_head.module_list.{level}", boxes * outputs, 3, channels)
    return state


def same(variable, array):
    np.testing.assert_array_equal(variable.numpy(), array.transpose(2, 3, 1, 0))
