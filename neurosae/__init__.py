"""A functional localizer for language models."""
