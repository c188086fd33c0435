"""A gallery of images that can be searched: vectors and ids on disk, added, removed, found."""
