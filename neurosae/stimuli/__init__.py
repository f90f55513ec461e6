"""Stimulus sets: YAML files, their items and templates as a labelled table, contrasts, checks."""

from __future__ import annotations

from neurosae.stimuli.labelled import LabelledContrast
from neurosae.stimuli.sets import StimulusSet, available, concepts, load

__all__ = ["LabelledContrast", "StimulusSet", "available", "concepts", "load"]
