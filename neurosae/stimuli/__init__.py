"""Stimulus sets: YAML files, their items and templates as a labelled table, contrasts, checks."""

from __future__ import annotations

from neurosae.stimuli.sets import StimulusSet, available, concepts, load

__all__ = ["StimulusSet", "available", "concepts", "load"]
