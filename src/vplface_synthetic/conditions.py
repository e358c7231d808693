"""Conditions of one picture: pose, expression, light, age, occlusion and camera."""

from __future__ import annotations

import dataclasses

import numpy as np

from vplface_synthetic.identity import RGB, Identity


@dataclasses.dataclass(frozen=True, slots=True)
class Conditions:
    """Everything about one picture that is not the identity; angles in radians, lengths in pixels.

    ``seeds`` chooses windows of the noise banks (background, hair, grain), so that rendering itself draws nothing.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    zoom: float = 1.0
    smile: float = 0.0
    open: float = 0.0
    brow_raise: float = 0.0
    lids: float = 1.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    age: float = 38.0
    weight: float = 0.0
    light_x: float = -0.4
    light_y: float = -0.5
    key: float = 0.75
    key_colour: RGB = (1.0, 1.0, 1.0)
    ambient: float = 0.35
    ambient_colour: RGB = (1.0, 1.0, 1.0)
    shine: float = 0.25
    tan: float = 0.0
    style: int = 0
    volume: float = 1.0
    parting: float = 0.0
    hair: RGB = (0.1, 0.08, 0.06)
    beard: int = 0
    make_up: float = 0.0
    lipstick: RGB = (0.6, 0.2, 0.2)
    glasses: int = 0
    hat: int = 0
    hat_colour: RGB = (0.2, 0.2, 0.3)
    mask: int = 0
    mask_colour: RGB = (0.6, 0.75, 0.85)
    clothes: RGB = (0.2, 0.2, 0.3)
    patch: float = 0.0
    exposure: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    blur: float = 0.0
    shrink: float = 1.0
    grain: float = 0.0
    jpeg: int = 0
    seeds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def neutral(identity: Identity) -> Conditions:
    """A passport picture: frontal, soft light, no occlusion, a clean camera."""
    return Conditions(age=identity.age, style=identity.styles[0], hair=identity.hair, beard=identity.beard)


# size: one table, in which the order of the draws defines every generated picture
def draw_conditions(identity: Identity, key: tuple[int, ...], difficulty: float = 1.0) -> Conditions:
    """The conditions of the picture with the given ``key`` (whole numbers ≥ 0).

    Args:
        identity: whose picture it is: it determines habits (glasses, beard, hair styles) and age.
        key: seeds the draw; the same key gives the same picture.
        difficulty: scales every nuisance; 0 leaves neutral pictures, 1 the usual ones.
    """
    rng = np.random.default_rng(key)
    n = iter(np.clip(rng.standard_normal(48), -2.4, 2.4).tolist()).__next__
    u = iter(rng.random(72).tolist()).__next__
    d = difficulty

    def sometimes(probability: float) -> bool:
        return bool(u() < probability * min(d, 1.5))

    def tint(strength: float) -> RGB:
        return (1.0 + d * strength * n(), 1.0 + 0.35 * d * strength * n(), 1.0 + d * strength * n())

    def colour() -> RGB:
        bright, hue = 0.08 + 0.75 * u(), 0.45 * u()
        return (bright * (1 - hue * u()), bright * (1 - hue * u()), bright * (1 - hue * u()))

    age = min(75.0, max(16.0, identity.age + 9.0 * d * n()))
    grey = min(1.0, max(0.0, (age - 42.0) / 30.0 + 0.15 * n()))
    dye = d * 0.16 * n()
    red, green, blue = (channel * (1.0 + dye) for channel in identity.hair)
    if sometimes(0.06):
        red, green, blue = colour()
    hair = (red + grey * (0.58 - red), green + grey * (0.57 - green), blue + grey * (0.56 - blue))
    style = identity.styles[0 if u() > 0.35 * d else 1]
    if sometimes(0.12):
        style = int(u() * 8)
    glasses = 1 + identity.glasses_shape if u() < identity.glasses_habit * min(d, 1.0) else 0
    if sometimes(0.04):
        glasses = 4
    shaven = u() > 1.0 - (1.0 - identity.beard_habit) * d
    stubble = identity.masculine > 0 and u() < 0.5
    beard = int(stubble) if shaven else identity.beard
    feminine = identity.masculine < 0
    return Conditions(
        yaw=0.33 * d * n(),
        pitch=0.15 * d * n(),
        roll=0.06 * d * n(),
        shift_x=1.6 * d * n(),
        shift_y=1.6 * d * n(),
        zoom=1.0 + 0.035 * d * n(),
        smile=d * max(-0.5, 0.3 + 0.55 * n()),
        open=d * max(0.0, 0.1 + 0.45 * n()),
        brow_raise=d * 0.9 * n(),
        lids=max(0.12, 1.0 + d * 0.16 * n()) if not sometimes(0.03) else 0.1,
        gaze_x=0.9 * d * n(),
        gaze_y=0.45 * d * n(),
        age=age,
        weight=0.9 * d * n(),
        light_x=0.65 * d * n() - 0.1,
        light_y=-0.45 + 0.35 * d * n(),
        key=0.75 * max(0.25, 1.0 + 0.35 * d * n()),
        key_colour=tint(0.09),
        ambient=0.33 * max(0.3, 1.0 + 0.4 * d * n()),
        ambient_colour=tint(0.12),
        shine=0.22 * max(0.1, 1.0 + 0.6 * d * n()),
        tan=0.07 * d * n(),
        style=style,
        volume=max(0.5, 1.0 + 0.25 * d * n()),
        parting=(0.0, -1.0, 1.0)[int(u() * 3)],
        hair=hair,
        beard=beard,
        make_up=d * u() if feminine and u() < 0.5 else 0.0,
        lipstick=(0.45 + 0.3 * u(), 0.12 + 0.15 * u(), 0.15 + 0.2 * u()),
        glasses=glasses,
        hat=1 + int(u() * 3) if sometimes(0.09) else 0,
        hat_colour=colour(),
        mask=1 if sometimes(0.045) else 0,
        mask_colour=(0.55, 0.70, 0.82) if u() < 0.5 else colour(),
        clothes=colour(),
        patch=u() if sometimes(0.05) else 0.0,
        exposure=1.0 + 0.16 * d * n(),
        contrast=1.0 + 0.12 * d * n(),
        saturation=0.0 if sometimes(0.04) else max(0.3, 1.0 + 0.2 * d * n()),
        blur=d * max(0.0, 0.5 * n()),
        shrink=1.0 + 1.6 * d * u() if sometimes(0.2) else 1.0,
        grain=d * 5.0 * u() ** 2,
        jpeg=int(35 + 55 * u()) if sometimes(0.5) else 0,
        seeds=tuple(u() for _ in range(8)),
    )
