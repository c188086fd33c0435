"""Images and their labels: annotations, decoding, augmentation, loading."""

FORMAT_ALIASES = {"ClsSourceImageList": "image_list", "ClsSourceItag": "itag"}
"""The component's names of annotation formats."""
