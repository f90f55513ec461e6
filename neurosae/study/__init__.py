"""The main job: one contrast of a stimulus set through the grid of method variants and the stages after it."""
