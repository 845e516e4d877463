"""The only module that talks to Blender: meshes, materials, light, rendering.

`bpy` is imported when a `Stage` is made, so that everything else works without it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.scenes.camera import Camera, Label, label_of
from benchmarks.scenes.mesh import Material, Mesh

__all__ = ["Blend", "Item", "Stage"]

Picture = NDArray[np.uint8]
Blend: TypeAlias = Any
"""Something of Blender's: bpy ships no types."""


def _linear(color: tuple[float, ...]) -> tuple[float, float, float, float]:
    """SRGB → linear light, with alpha 1."""
    c = np.asarray(color[:3], dtype=float)
    r, g, b = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(r), float(g), float(b), 1.0


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Blender's C code prints per frame."""
    sys.stdout.flush()
    keep, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(keep, 1)
        os.close(keep)
        os.close(null)


class Item:
    """A prop on the stage. `class_id` None means that it is not labelled; `ident` marks it in the identity pass."""

    def __init__(self, stage: Stage, mesh: Mesh, class_id: int | None, ident: int) -> None:
        self._stage, self.mesh, self.class_id, self.ident = stage, mesh, class_id, ident
        self._built = mesh
        self.object: Blend = stage.add_object(mesh)
        self.object.color = (ident / 255, 0, 0, 1)

    def place(self, matrix: NDArray[np.float64]) -> None:
        """Move the prop from where it was built, by a (4, 4) transform: cheaper than `replace`."""
        from mathutils import Matrix

        self.mesh = self._built.moved(matrix)
        self.object.matrix_world = Matrix(matrix.tolist())

    def replace(self, mesh: Mesh) -> None:
        """Give the prop a new shape, where the mesh says."""
        from mathutils import Matrix

        self.mesh = self._built = mesh
        self.object.matrix_world = Matrix.Identity(4)
        old = self.object.data
        self.object.data = self._stage.mesh_data(mesh)
        self._stage.bpy.data.meshes.remove(old)

    def show(self, visible: bool) -> None:
        """Put the prop on the stage or take it off."""
        self.object.hide_render = not visible


class Stage:
    """An empty Blender scene with a Cycles CPU renderer of `width` x `height` pixels.

    Raises ImportError where `bpy` is not installed.
    """

    def __init__(
        self, width: int, height: int, *, samples: int = 8, denoise: bool = True, threads: int = 0
    ) -> None:
        import bpy  # a gigabyte, in a venv of its own: see README.md

        self.bpy: Blend = bpy
        with _quiet():
            bpy.ops.wm.read_factory_settings(use_empty=True)
        self.width, self.height = width, height
        self._materials: dict[Material, Blend] = {}
        self.items: list[Item] = []
        self._scratch = tempfile.TemporaryDirectory(prefix="gridwatch-scenes-")
        scene = self.scene = bpy.context.scene
        render, cycles = scene.render, scene.cycles
        render.engine = "CYCLES"
        cycles.device = "CPU"
        cycles.samples, cycles.use_denoising = samples, denoise
        cycles.use_adaptive_sampling = False
        cycles.denoising_quality = "BALANCED"
        # Few bounces and no light tree: a third of the time, no visible difference at this size after denoising.
        cycles.use_light_tree = False
        cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 3, 1, 1
        cycles.transmission_bounces, cycles.transparent_max_bounces = 2, 6
        cycles.caustics_reflective = cycles.caustics_refractive = False
        cycles.sample_clamp_indirect = 4.0  # fireflies would become flicker in the clips
        cycles.seed = 0
        render.use_persistent_data = True
        render.resolution_x, render.resolution_y, render.resolution_percentage = width, height, 100
        render.image_settings.file_format = "PNG"
        render.image_settings.color_mode = "RGB"
        render.image_settings.compression = 0
        if threads:
            render.threads_mode, render.threads = "FIXED", threads
        scene.view_settings.view_transform = "Standard"
        scene.world = self._world = bpy.data.worlds.new("world")
        self._identity = self._identity_material()

    # -- props ---------------------------------------------------------------------------------------------------------

    def add(self, mesh: Mesh, class_id: int | None = None) -> Item:
        """Put a prop on the stage."""
        ident = len(self.items) + 1
        if ident > 255:
            raise ValueError(
                "a stage holds at most 255 items, because the identity pass has 8 bits"
            )
        item = Item(self, mesh, class_id, ident)
        self.items.append(item)
        return item

    def scenery(self, mesh: Mesh) -> Blend:
        """Put an unlabelled, unnumbered mesh on the stage."""
        thing = self.add_object(mesh)
        thing.color = (0, 0, 0, 1)
        return thing

    def add_object(self, mesh: Mesh) -> Blend:
        """A Blender object of the mesh."""
        thing = self.bpy.data.objects.new("prop", self.mesh_data(mesh))
        self.scene.collection.objects.link(thing)
        return thing

    def mesh_data(self, mesh: Mesh) -> Blend:
        """A Blender mesh with one slot per material; a part of a single quad also gets picture coordinates."""
        data = self.bpy.data.meshes.new("prop")
        vertices, faces, slots, smooth = [], [], [], []
        materials: dict[Material, int] = {}
        base = 0
        for part in mesh.parts:
            slot = materials.setdefault(part.material, len(materials))
            vertices.append(part.vertices)
            faces += [[base + i for i in face] for face in part.faces]
            slots += [slot] * len(part.faces)
            # Caps are flat: smoothing an n-gon against its ring would shade it wrongly.
            smooth += [part.smooth and len(face) == 4 for face in part.faces]
            base += len(part.vertices)
        data.from_pydata(np.concatenate(vertices).tolist() if vertices else [], [], faces)
        for material in materials:
            data.materials.append(self.material(material))
        data.polygons.foreach_set("material_index", slots)
        data.polygons.foreach_set("use_smooth", smooth)
        data.update()
        return data

    def picture(
        self,
        corners: NDArray[np.float64],
        pixels: Picture,
        *,
        emission: float = 0.0,
        gloss: float = 0.4,
    ) -> Blend:
        """Hang an RGB picture (h, w, 3) between four corners (lower left, lower right, upper right, upper left)."""
        image = self.bpy.data.images.new("picture", pixels.shape[1], pixels.shape[0])
        rgba = np.ones((*pixels.shape[:2], 4), np.float32)
        rgba[..., :3] = pixels[::-1] / np.float32(255)
        image.pixels.foreach_set(rgba.ravel())
        image.pack()
        material, nodes, links, shader = self._shader("picture")
        texture = nodes.new("ShaderNodeTexImage")
        texture.image = image
        links.new(texture.outputs["Color"], shader.inputs["Base Color"])
        shader.inputs["Roughness"].default_value = gloss
        if emission:
            links.new(texture.outputs["Color"], shader.inputs["Emission Color"])
            shader.inputs["Emission Strength"].default_value = emission
        data = self.bpy.data.meshes.new("picture")
        data.from_pydata(np.asarray(corners).tolist(), [], [(0, 1, 2, 3)])
        layer = data.uv_layers.new()
        for loop, uv in zip(layer.data, ((0, 0), (1, 0), (1, 1), (0, 1)), strict=True):
            loop.uv = uv
        data.materials.append(material)
        thing = self.bpy.data.objects.new("picture", data)
        thing.color = (0, 0, 0, 1)
        self.scene.collection.objects.link(thing)
        return thing

    # -- light and camera ----------------------------------------------------------------------------------------------

    def sky(self, color: tuple[float, float, float], strength: float) -> None:
        """Uniform light from everywhere."""
        self._world.use_nodes = True
        background = self._world.node_tree.nodes["Background"]
        background.inputs["Color"].default_value = _linear(color)
        background.inputs["Strength"].default_value = strength

    def area_light(
        self, location: tuple[float, float, float], size: tuple[float, float], watts: float,
        color: tuple[float, float, float] = (1, 1, 1), target: tuple[float, float, float] | None = None,
    ) -> Blend:  # fmt: skip
        """A rectangular lamp that shines down, or at `target`."""
        lamp = self.bpy.data.lights.new("area", "AREA")
        lamp.shape, lamp.size, lamp.size_y, lamp.energy = "RECTANGLE", size[0], size[1], watts
        lamp.color = _linear(color)[:3]
        return self._place(lamp, location, target)

    def point_light(
        self,
        location: tuple[float, float, float],
        watts: float,
        color: tuple[float, float, float],
        radius: float = 0.1,
    ) -> Blend:
        """A small round lamp."""
        lamp = self.bpy.data.lights.new("point", "POINT")
        lamp.energy, lamp.color, lamp.shadow_soft_size = watts, _linear(color)[:3], radius
        return self._place(lamp, location, None)

    def sun(
        self,
        elevation_deg: float,
        azimuth_deg: float,
        strength: float,
        color: tuple[float, float, float],
    ) -> Blend:
        """A sun; strength in W/m²."""
        lamp = self.bpy.data.lights.new("sun", "SUN")
        lamp.energy, lamp.color, lamp.angle = strength, _linear(color)[:3], 0.02
        e, a = np.radians(elevation_deg), np.radians(azimuth_deg)
        location = (
            float(np.cos(e) * np.cos(a)) * 50,
            float(np.cos(e) * np.sin(a)) * 50,
            float(np.sin(e)) * 50,
        )
        return self._place(lamp, location, (0.0, 0.0, 0.0))

    def _place(
        self, data: Blend, location: tuple[float, ...], target: tuple[float, ...] | None
    ) -> Blend:
        from mathutils import Vector

        thing = self.bpy.data.objects.new("lamp", data)
        thing.location = location
        if target is not None:
            thing.rotation_euler = (
                (Vector(target) - Vector(location)).to_track_quat("-Z", "Y").to_euler()
            )
        self.scene.collection.objects.link(thing)
        return thing

    def look(self, camera: Camera) -> None:
        """Render through `camera`."""
        from mathutils import Matrix

        data = self.bpy.data.cameras.new("camera")
        data.sensor_fit, data.sensor_width = "HORIZONTAL", 36.0
        data.sensor_height = 36.0 * camera.height / camera.width
        data.clip_start, data.clip_end = 0.02, 500.0
        focal_mm = camera.focal_px * 36.0 / camera.width
        if camera.lens == "equisolid":
            data.type = "PANO"
            data.panorama_type = "FISHEYE_EQUISOLID"
            data.fisheye_lens, data.fisheye_fov = focal_mm, 2 * np.pi
        else:
            data.lens = focal_mm
        thing = self.bpy.data.objects.new("camera", data)
        matrix = np.eye(4)
        matrix[:3, :3] = camera.axes.T
        matrix[:3, 3] = camera.location
        thing.matrix_world = Matrix(matrix.tolist())
        self.scene.collection.objects.link(thing)
        self.scene.camera = thing

    # -- rendering -----------------------------------------------------------------------------------------------------

    def _shoot(self) -> Picture:
        path = Path(self._scratch.name) / "frame.png"
        self.scene.render.filepath = str(path)
        with _quiet():
            self.bpy.ops.render.render(write_still=True)
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    def render(self) -> Picture:
        """The picture, RGB (h, w, 3) uint8."""
        return self._shoot()

    def render_over(self, base: Picture, box: tuple[float, float, float, float]) -> Picture:
        """A copy of `base` with only the pixels of `box` (xyxy) rendered anew: what a small moving thing costs."""
        w, h = self.width, self.height
        x1, y1 = max(0, int(box[0])), max(0, int(box[1]))
        x2, y2 = min(w, int(np.ceil(box[2]))), min(h, int(np.ceil(box[3])))
        if x2 - x1 < 2 or y2 - y1 < 2:
            return base
        render = self.scene.render
        render.use_border, render.use_crop_to_border = True, False
        # Blender counts from the lower edge; half a pixel keeps rounding away from the border.
        render.border_min_x, render.border_max_x = (x1 + 0.25) / w, (x2 - 0.25) / w
        render.border_min_y, render.border_max_y = 1 - (y2 - 0.25) / h, 1 - (y1 + 0.25) / h
        try:
            fresh = self._shoot()
        finally:
            render.use_border = False
        # Fade the edge in, lest slight differences in light draw a frame around the thing.
        ys, xs = np.arange(y1, y2), np.arange(x1, x2)
        inward = np.minimum.outer(
            np.minimum(ys - y1, y2 - 1 - ys), np.minimum(xs - x1, x2 - 1 - xs)
        )
        share = np.clip(inward / 6.0, 0, 1)[..., None]
        out = base.copy()
        out[y1:y2, x1:x2] = (base[y1:y2, x1:x2] * (1 - share) + fresh[y1:y2, x1:x2] * share).astype(
            np.uint8
        )
        return out

    def identities(self) -> NDArray[np.uint8]:
        """Per pixel the number of the item that is seen there (0: scenery), (h, w) uint8.

        The whole stage is drawn once in flat colours, one ray through each pixel's centre.
        """
        scene, layer = self.scene, self.scene.view_layers[0]
        cycles, view = scene.cycles, scene.view_settings
        before = cycles.samples, cycles.use_denoising, cycles.pixel_filter_type, cycles.filter_width
        layer.material_override = self._identity
        scene.world = None
        cycles.samples, cycles.use_denoising, cycles.pixel_filter_type = 1, False, "BOX"
        view.view_transform = "Raw"
        scene.render.dither_intensity = 0.0
        try:
            return self._shoot()[..., 0].copy()
        finally:
            layer.material_override = None
            scene.world = self._world
            cycles.samples, cycles.use_denoising, cycles.pixel_filter_type, cycles.filter_width = (
                before
            )
            view.view_transform = "Standard"

    def labels(self, camera: Camera) -> list[Label]:
        """Labels of everything on the stage that has a class and is seen."""
        ids = self.identities()
        found = (
            label_of(item.class_id, ids == item.ident, item.mesh, camera)
            for item in self.items
            if item.class_id is not None and not item.object.hide_render
        )
        return [label for label in found if label is not None]

    # -- materials -----------------------------------------------------------------------------------------------------

    def _identity_material(self) -> Blend:
        material = self.bpy.data.materials.new("identity")
        material.use_nodes = True
        nodes, links = material.node_tree.nodes, material.node_tree.links
        nodes.clear()
        info, emit = nodes.new("ShaderNodeObjectInfo"), nodes.new("ShaderNodeEmission")
        out = nodes.new("ShaderNodeOutputMaterial")
        links.new(info.outputs["Color"], emit.inputs["Color"])
        links.new(emit.outputs["Emission"], out.inputs["Surface"])
        return material

    def _shader(self, name: str) -> tuple[Blend, Blend, Blend, Blend]:
        material = self.bpy.data.materials.new(name)
        material.cycles.emission_sampling = (
            "NONE"  # glowing surfaces are seen; lamps beside them give the light
        )
        material.use_nodes = True
        nodes, links = material.node_tree.nodes, material.node_tree.links
        return material, nodes, links, nodes["Principled BSDF"]

    def material(self, spec: Material) -> Blend:
        """The Blender material of a specification; equal specifications share one."""
        if spec in self._materials:
            return self._materials[spec]
        material, nodes, links, shader = self._shader(spec.pattern)
        color = _linear(spec.color)
        shader.inputs["Base Color"].default_value = color
        shader.inputs["Roughness"].default_value = spec.roughness
        shader.inputs["Metallic"].default_value = spec.metallic
        if spec.emission:
            shader.inputs["Emission Color"].default_value = color
            shader.inputs["Emission Strength"].default_value = spec.emission
        if spec.glass:
            shader.inputs["Alpha"].default_value = 1 - spec.glass
        if spec.pattern != "plain":
            self._pattern(spec, color, nodes, links, shader)
        self._materials[spec] = material
        return material

    def _pattern(
        self, spec: Material, color: tuple[float, ...], nodes: Blend, links: Blend, shader: Blend
    ) -> None:
        where = nodes.new("ShaderNodeNewGeometry").outputs["Position"]
        dark = (*tuple(c * 0.55 for c in color[:3]), 1.0)
        if spec.pattern in ("tiles", "wall_tiles", "bricks", "planks"):
            if spec.pattern in ("wall_tiles", "bricks"):  # unfold x-z and y-z walls
                split, join, total = (
                    nodes.new(f"ShaderNode{n}") for n in ("SeparateXYZ", "CombineXYZ", "Math")
                )
                links.new(where, split.inputs[0])
                links.new(split.outputs["X"], total.inputs[0])
                links.new(split.outputs["Y"], total.inputs[1])
                links.new(total.outputs[0], join.inputs["X"])
                links.new(split.outputs["Z"], join.inputs["Y"])
                where = join.outputs[0]
            brick = nodes.new("ShaderNodeTexBrick")
            brick.offset = 0.0 if "tiles" in spec.pattern else 0.5
            brick.inputs["Scale"].default_value = 1.0
            brick.inputs["Brick Width"].default_value = spec.scale * (
                1.0 if "tiles" in spec.pattern else 3.0
            )
            brick.inputs["Row Height"].default_value = spec.scale
            brick.inputs["Mortar Size"].default_value = spec.scale * 0.02
            brick.inputs["Color1"].default_value = color
            brick.inputs["Color2"].default_value = (*tuple(c * 0.85 for c in color[:3]), 1.0)
            brick.inputs["Mortar"].default_value = dark
            links.new(where, brick.inputs["Vector"])
            links.new(brick.outputs["Color"], shader.inputs["Base Color"])
            return
        mapping, noise, mix = (
            nodes.new(f"ShaderNode{n}") for n in ("Mapping", "TexNoise", "MixRGB")
        )
        links.new(where, mapping.inputs["Vector"])
        stretch = {"brushed": (1.0, 1.0, 0.02), "wood": (1.0, 1.0, 0.08)}.get(
            spec.pattern, (1.0, 1.0, 1.0)
        )
        mapping.inputs["Scale"].default_value = tuple(s / spec.scale for s in stretch)
        noise.inputs["Scale"].default_value = 1.0
        noise.inputs["Detail"].default_value = (
            6.0 if spec.pattern in ("asphalt", "grass", "speckle") else 3.0
        )
        noise.inputs["Roughness"].default_value = 0.75
        links.new(mapping.outputs[0], noise.inputs["Vector"])
        contrast = {"brushed": 0.9, "speckle": 0.8, "asphalt": 0.65, "grass": 0.35, "wood": 0.5}[
            spec.pattern
        ]
        ramp = nodes.new("ShaderNodeMapRange")
        ramp.inputs["From Min"].default_value, ramp.inputs["From Max"].default_value = 0.3, 0.7
        links.new(noise.outputs[0], ramp.inputs["Value"])
        links.new(ramp.outputs[0], mix.inputs["Fac"])
        mix.inputs["Color1"].default_value = (*tuple(c * contrast for c in color[:3]), 1.0)
        mix.inputs["Color2"].default_value = color
        links.new(mix.outputs[0], shader.inputs["Base Color"])
