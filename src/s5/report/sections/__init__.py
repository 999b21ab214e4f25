"""The sections of the report page, one question each; a section whose inputs are missing is None."""
