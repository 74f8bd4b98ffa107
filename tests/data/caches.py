"""Photographs that are kept in a cache, by a source and without one."""

from torchvision.transforms import v2

from plainloop.augment.crop import RandomResizedCrop
from plainloop.augment.per_sample import PerSample
from plainloop.data.cache.build import Content, cached
from plainloop.data.cache.place import Place
from plainloop.data.image_folder import ImageFolder
from plainloop.data.loaders import Loader
from plainloop.data.loading.decode import decode_at_most

DRAWS = (RandomResizedCrop(size=32).sample, PerSample(transform=v2.ColorJitter(0.4, 0.4, 0.4)).sample)
NUMBER = 16


def source(root, tmp_path, cache="disk", *, num_workers=0, **settings):
    told = {"batch_size": 4, "image_size": 32, "crop_fraction": 0.8, "device": "cpu", "timeout": 60} | settings
    told |= {"cache": cache, "cache_dir": str(tmp_path / "caches"), "sample_transforms": DRAWS}
    return ImageFolder(root=str(root), num_workers=num_workers, **told)


def steps(data, start=0, stop=6):
    return list(data.train_batches(start, stop, seed=3))


def content(root, *, side=40, read=None, **settings):
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.*"))
    decoded = read or (lambda path: decode_at_most(path, shorter_side=side))
    return Content("some", root, files, decoded, {"side": side}, side, **settings)


def built(what, folder, kind="disk", limit=10**9, num_workers=0):
    return cached(what, Place(kind, folder, limit), loader=Loader(4, num_workers), timeout=60)
