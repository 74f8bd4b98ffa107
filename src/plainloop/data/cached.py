"""What sources share that decode image files and can keep them decoded.

This module has no `from __future__ import annotations`: the check reads these types in the signatures of subclasses.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from plainloop.contracts import Preprocessing, Split
from plainloop.data.cache.place import Place, estimate_of, place_of, require_room
from plainloop.data.decoded import DecodedImages
from plainloop.data.loading.listing import Listings
from plainloop.system.storage import readable_size

if TYPE_CHECKING:
    from plainloop.data.cache.file import CachedImages
    from plainloop.data.loading.samples import Images


@dataclass(kw_only=True, eq=False)
class CachedImageFiles(DecodedImages):
    """A subclass adds `listings`, and calls `require_room_for_cache` in its `known`.

    Args:
        cache: decodes each image once: `disk` keeps it for all later runs, `ram` for the ranks of this one.
        cache_size: the shorter side of what is kept, in pixels; `auto` is what evaluation resizes to.
        cache_dir: None is $XDG_CACHE_HOME/plainloop/images, or ~/.cache/plainloop/images.
        cache_gb: what all caches in that folder may take, or this one in memory; in 10^9 bytes.
    """

    cache: Literal["none", "ram", "disk"] = "none"
    cache_size: int | Literal["auto"] = "auto"
    cache_dir: str | None = None
    cache_gb: float = 20

    changes_no_result: ClassVar = (*DecodedImages.changes_no_result, "cache_dir", "cache_gb")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache_size != "auto" and self.cache_size < self.image_size:
            raise ValueError(
                f"data.cache_size={self.cache_size} must be at least data.image_size={self.image_size}, or auto"
            )
        if self.cache_gb <= 0:
            raise ValueError(f"data.cache_gb={self.cache_gb} must be above 0")

    def listings(self) -> Listings:
        raise NotImplementedError

    @property
    def cached_side(self) -> int:
        return int(self.image_size / self.crop_fraction) if self.cache_size == "auto" else self.cache_size

    @property
    def place(self) -> Place:
        return place_of(self.cache, self.cache_dir, self.cache_gb)

    def require_room_for_cache(self) -> None:
        """Raises BadData for a cache that would be too large."""
        if self.cache != "none":
            require_room(self.place, estimate_of(self.listings(), self.cached_side))

    @classmethod
    def plan_lines(cls, **arguments: Any) -> list[str]:
        source, lines = cls(**arguments), super().plan_lines(**arguments)
        if source.cache == "none":
            return lines
        size, side = readable_size(estimate_of(source.listings(), source.cached_side)), source.cached_side
        where = f"in {source.place.folder}" if source.cache == "disk" else "of memory"
        lines.append(f"cache={source.cache} keeps all images at a shorter side of {side} pixels, about {size} {where}")
        return [*lines, "so training resizes pixels a second time, which data.cache=none does not"]

    @classmethod
    def preprocessing(cls, **arguments: Any) -> Preprocessing:
        from plainloop.data.loading.outside import after_a_cache

        source, found = cls(**arguments), super().preprocessing(**arguments)
        if source.cache == "none":
            return found
        return replace(found, prepare=partial(after_a_cache, shorter_side=source.cached_side, prepare=found.prepare))

    @cached_property
    def _caches(self) -> "dict[Split, CachedImages]":
        return {}

    def readable(self, split: Split) -> "Images":
        """The split with its cache, which is filled here where there is none. Collective."""
        images = super().readable(split)
        if self.cache == "none":
            return images
        if split not in self._caches:
            from plainloop.data.cache.build import cached

            name, keep_bad = f"{self.listings().root.absolute().name}-{split}", self.on_bad_image == "skip"
            content = images.content(name, shorter_side=self.cached_side, keep_bad=keep_bad)
            self._caches[split] = cached(content, self.place, loader=self.loaders[split], timeout=self.timeout)
        return replace(images, cached=self._caches[split])
