"""The sample contract: what every dataset yields and every detector is given.

A *sample* is one image with its labels, in pixels of the image file:

=============  ========  ======  ====================================================
key            dtype     shape   meaning
=============  ========  ======  ====================================================
image          uint8     H,W,3   RGB
boxes          float32   N,4     (xmin, ymin, xmax, ymax), inclusive pixel corners as in
                                 the labels: width is xmax - xmin + 1
classes        int32     N       index into the dataset's ``class_names``
ignore         bool      N       not an object to train on (DontCare, Van, difficult ...)
image_id       string    ()      the frame's name, e.g. ``000042``
image_size     int32     2       (H, W) of the image file
attributes     dict      N,...   what the dataset's evaluation needs (truncation, occlusion ...)
=============  ========  ======  ====================================================

A *batch* is what the input pipeline makes of samples, in pixels of the network input:

=============  ========  ========  ==================================================
key            dtype     shape     meaning
=============  ========  ========  ==================================================
image          float32   B,H,W,3   RGB, 0..255, augmented and resized, zero padded
boxes          float32   B,M,4     inclusive corners, pixels of the network input; the
                                   objects to train on first, zero rows after them
classes        int32     B,M       0 where not valid
valid          bool      B,M       True for an object, False for padding
content_size   float32   B,2       (h, w) of the picture inside the padded input
scale          float32   B,2       (y, x): network input pixels per image-file pixel
image_id       string    B         as in the sample
image_size     int32     B,2       as in the sample
=============  ========  ========  ==================================================

The resize policy says whether resizing maps the *edges* of a box, (xmin, xmax + 1) -> (xmin * s,
(xmax + 1) * s), so that the width with its + 1 is scaled (ShuffleDet), or its inclusive *corners*,
(xmin, xmax) -> (xmin * s, xmax * s) (Faster R-CNN).
"""

from __future__ import annotations

BATCH_KEYS = ("image", "boxes", "classes", "valid", "content_size", "scale", "image_id", "image_size")
