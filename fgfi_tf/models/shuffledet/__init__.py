"""ShuffleDet: the detector of the KITTI experiments."""

from fgfi_tf.models.shuffledet.model import ShuffleDet

__all__ = ["ShuffleDet"]
