"""Sun, air and sensor: from reflectance and heights to an 8-bit image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from s5.data.demo.ground import Canvas
from s5.data.demo.looks import Look
from s5.data.demo.noise import Field, blur, grain, value_noise

_REACH = 48  # longest shadow in pixels


def sun_on_ground(look: Look) -> tuple[float, float, float]:
    """Unit vector (column, row) towards the sun, and the tangent of its elevation."""
    right, up, height = look.sun
    flat = math.sqrt(right * right + up * up)
    return right / flat, -up / flat, height / flat


def cast_shadows(height: Field, look: Look) -> Field:
    """Share of direct light that each pixel loses: a march from each pixel towards the sun."""
    dx, dy, slope = sun_on_ground(look)
    size = height.shape[0]
    padded = np.pad(height, _REACH)
    over = np.zeros_like(height)
    farthest = min(_REACH, int(float(height.max()) / slope) + 1)
    for step in range(1, farthest + 1):
        if step > 14 and step % 2:
            continue
        row, col = _REACH + math.floor(step * dy + 0.5), _REACH + math.floor(step * dx + 0.5)
        np.maximum(over, padded[row : row + size, col : col + size] - np.float32(step * slope), out=over)
    return blur(np.clip((over - height) * np.float32(0.7), 0, 1), 1)


def shade_canopy(canvas: Canvas, canopy: Field, look: Look) -> None:
    """Crowns are brighter towards the sun."""
    dx, dy, _ = sun_on_ground(look)
    smooth = blur(canopy, 1)
    down, right = np.gradient(smooth)
    light = 1 - np.float32(0.16) * (right * np.float32(dx) + down * np.float32(dy))
    canvas.relief = np.where(canopy > 0, np.clip(light, 0.45, 1.5), canvas.relief).astype(np.float32)


def expose(rng: np.random.Generator, canvas: Canvas, look: Look) -> NDArray[np.uint8]:
    """The image [3, size, size] as the region's sensor takes it through the region's air."""
    shadow = cast_shadows(canvas.height, look)
    light = np.float32(look.shade) + np.float32(1 - look.shade) * (1 - shadow) * canvas.relief
    image = canvas.albedo * light
    image[2] += np.float32(0.02) * shadow  # skylight is blue
    grey = (image[0] + image[1] + image[2]) * np.float32(1 / 3)
    veil = np.float32(look.haze) * (1 + np.float32(0.18) * value_noise(rng, canvas.size, 260))
    for band in range(3):
        value = grey + np.float32(look.saturation) * (image[band] - grey)
        value = (value - np.float32(0.36)) * np.float32(look.contrast) + np.float32(0.36)
        value = value * np.float32(look.cast[band] * look.brightness)
        image[band] = value + veil * (np.float32(look.haze_colour[band]) - value)
    passes, rest = int(look.blur), np.float32(look.blur - int(look.blur))
    image = blur(image, passes)
    if rest > 0:
        image = image + rest * (blur(image, 1) - image)
    noise = grain(rng, image.shape) * np.float32(0.75) + grain(rng, image.shape[1:]) * np.float32(0.65)
    stripes = grain(rng, (canvas.size,)) * np.float32(0.14)
    values = image * np.float32(255) + np.float32(look.noise) * (noise + stripes)
    # 0 is kept for "no data"
    levels: NDArray[np.uint8] = np.clip(np.floor(values + np.float32(0.5)), 1, 255).astype(np.uint8)
    return levels
