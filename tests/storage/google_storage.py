"""A stand-in of gcsfs in memory: `isdir` is False on any failure, refusals are plain OSErrors."""

from fsspec.implementations.memory import MemoryFileSystem


class GoogleStorage(MemoryFileSystem):
    """Buckets `shop`, and `drop`, which may be written to but not be listed."""

    store, pseudo_dirs = {}, [""]
    buckets = ("shop", "drop")
    cachable = False

    def _check(self, path, listing=True):
        bucket = path.strip("/").partition("/")[0]
        if bucket not in self.buckets:
            raise FileNotFoundError(f"b/{bucket}/o")
        if listing and bucket == "drop":
            raise OSError("Forbidden: b/drop/o\nno storage.objects.list access")

    def ls(self, path, detail=True, max_results=None, **more):
        self._check(path)
        try:
            return super().ls(path, detail, **more)[:max_results]
        except FileNotFoundError:  # an empty bucket
            return []

    def isdir(self, path):
        try:
            return bool(self.ls(path)) and super().isdir(path)
        except OSError:
            return False

    def find(self, path, **more):
        self._check(path)
        return super().find(path, **more)

    def put_file(self, lpath, rpath, **more):
        self._check(rpath, listing=False)
        super().put_file(lpath, rpath, **more)
