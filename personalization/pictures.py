"""Pictures: files and tensors as people have them -> (height, width, 3) in 8 bits, a mask and a caption."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from .text_file import read_text

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".tga"))
SUFFIXES |= {".avif", ".psd", ".jp2", ".ppm"}
HEIC = frozenset((".heic", ".heif"))
HEIC_BRANDS = (b"ftyphei", b"ftyphev")  # ISO 23008-12, 10: at byte 4; phones' exports also call such files .jpg
RAW = frozenset((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"))
SHORT_SIDE = 2048  # pixels kept at most, and 1024 at least, which SDXL trains at: 200 photographs fit in 2 GB


class PictureError(ValueError):
    """A file or tensor that cannot be used, with a sentence that names it and says what to do."""


@dataclass(frozen=True)
class Picture:
    """`pixels` (h, w, 3) uint8, upright; `mask` (h, w) uint8, 255 on the subject; `name` is only for sentences."""

    name: str
    pixels: Tensor
    mask: Tensor | None = None
    caption: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.pixels.shape[0], self.pixels.shape[1]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of pixels, mask and caption, never of the name."""
        digest = hashlib.sha256(repr((self.size, self.caption, self.mask is not None)).encode())
        for tensor in (self.pixels, self.mask):
            digest.update(b"" if tensor is None else tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def read_pictures(source: Path | Iterable[Path]) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """Read a folder or files: what could be read, and one sentence for each that could not."""
    pictures, unread = [], []
    for path in files_of(source) if isinstance(source, Path) else source:
        try:
            pictures.append(read_picture(path))
        except PictureError as error:
            unread.append(str(error))
    return tuple(pictures), tuple(unread)


def read_picture(path: Path) -> Picture:
    """Read one file, upright and in sRGB, with its alpha as mask and the .txt beside it as caption; PictureError."""
    if _is_heic(path) and not _heif_opens():
        raise PictureError(
            f"{path.name} is a HEIC photo, which Pillow cannot read alone. Save it as JPEG "
            "(iPhone: Settings > Camera > Formats > Most Compatible), or install the package pillow-heif."
        )
    if path.suffix.lower() in RAW:
        raise PictureError(f"{path.name} is a camera raw file; a developed one is needed. Export it as JPEG or PNG.")
    pixels, mask = _decoded(path)
    return Picture(path.name, pixels, mask, _caption(path))


def picture_from(name: str, pixels: Tensor, mask: Tensor | None = None, caption: str = "") -> Picture:
    """A Picture from a tensor (h, w, 3 or 4), uint8 or float in 0..1, and a mask (h, w), 1 on the subject."""
    if pixels.ndim != 3 or pixels.shape[-1] not in (3, 4):
        raise PictureError(
            f"{name} has the shape {tuple(pixels.shape)}; (height, width, 3 or 4) is needed. Connect a picture."
        )
    if mask is not None and mask.shape != pixels.shape[:2]:
        raise PictureError(
            f"The mask of {name} is {tuple(mask.shape)}, the picture {tuple(pixels.shape[:2])}. Make them one size."
        )
    pixels = _bytes(pixels)
    if pixels.shape[-1] == 4:
        try:
            pixels, alpha = _over_white(pixels)
        except PictureError as error:
            raise PictureError(f"{name} {error}") from None
        mask = alpha if mask is None else mask
    return Picture(name, pixels, None if mask is None else _bytes(mask), caption)


def files_of(folder: Path) -> list[Path]:
    """The files in `folder` that are called pictures, by name."""
    if not folder.is_dir():
        raise PictureError(f"There is no folder {folder}; one that holds pictures is needed. Check the path.")
    known = SUFFIXES | HEIC | RAW
    called = (path for path in folder.iterdir() if path.suffix.lower() in known and not path.name.startswith("."))
    return sorted((path for path in called if not path.is_dir()), key=lambda path: path.name)


def _is_heic(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return path.suffix.lower() in HEIC or file.read(12)[4:].startswith(HEIC_BRANDS)
    except OSError as error:
        raise PictureError(
            f"{path.name} cannot be read ({error.strerror or error}); a file that may be read is needed. "
            "Allow reading it, or copy it here again."
        ) from error


def _heif_opens() -> bool:
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    register_heif_opener()
    return True


def _decoded(path: Path) -> tuple[Tensor, Tensor | None]:
    if not path.is_file():
        raise PictureError(
            f"{path.name} is not there (looked in {path.parent}); a picture file is needed. Check the path."
        )
    try:
        with Image.open(path) as image:
            return _upright(image)
    except Image.UnidentifiedImageError:
        raise PictureError(
            f"{path.name} is called a picture but holds something else, or a kind that Pillow does not know "
            "(a TIFF of floats). Open and export it again as JPEG or PNG."
        ) from None
    except Image.DecompressionBombError:
        raise PictureError(
            f"{path.name} has more pixels than Pillow opens ({2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million). "
            "Export it smaller: 4000 pixels wide is more than enough."
        ) from None
    except PictureError as error:
        raise PictureError(f"{path.name} {error}") from None
    except Exception as error:  # a damaged file makes decoders raise anything, and must not stop the others
        raise PictureError(
            f"{path.name} is damaged ({error}); a whole file is needed. Export or copy it again."
        ) from error


def _upright(image: Image.Image) -> tuple[Tensor, Tensor | None]:
    """The first frame, turned as its EXIF says, at most SHORT_SIDE, over white."""
    image = _eight_bits(ImageOps.exif_transpose(image))
    if (factor := math.ceil(min(image.size) / SHORT_SIDE)) > 1:
        image = image.reduce(factor)
    pixels = torch.from_numpy(np.array(image))  # (h, w, 3 or 4)
    return _over_white(pixels) if pixels.shape[-1] == 4 else (pixels, None)


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB or RGBA in sRGB; Pillow's own conversion would clip 16-bit greys to white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        top = values.max()
        white = next((limit for limit in (1.0, 255.0, 65535.0) if top <= limit), top)
        return Image.fromarray((values.clip(0) * (255.0 / white)).round().astype(np.uint8)).convert("RGB")
    return _in_srgb(image).convert("RGBA" if image.has_transparency_data else "RGB")


def _in_srgb(image: Image.Image) -> Image.Image:
    """Adobe RGB, Display P3 and print CMYK look dull or neon when their profile is dropped."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    mode = "RGB" if image.mode == "CMYK" else image.mode
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):  # a broken profile: the plain conversion is what a browser shows too
        return image


def _over_white(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """(h, w, 4) -> over white (h, w, 3), and the alpha as mask unless it is opaque everywhere."""
    alpha = pixels[..., 3]
    if not bool(alpha.any()):
        raise PictureError("is completely transparent; some of it must be visible. Export it again with its content.")
    share = alpha[..., None].float() / 255
    blended = (pixels[..., :3].float() * share + 255 * (1 - share)).round().to(torch.uint8)
    return blended, None if bool((alpha == 255).all()) else alpha.clone()


def _bytes(values: Tensor) -> Tensor:
    if values.dtype == torch.uint8:
        return values.cpu()
    return (values.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)


def _caption(path: Path) -> str:
    """PictureError where there is one that cannot be read: without it other words would be learned."""
    beside = path.with_suffix(".txt")
    try:
        return " ".join(read_text(beside).split()) if beside.is_file() else ""
    except ValueError as error:
        raise PictureError(f"{path.name} was left out, as its caption is not known: {error}") from error
