"""Simulated scenes, rendered with Blender's `bpy` by procedural code: demo clips and labelled training pictures."""
