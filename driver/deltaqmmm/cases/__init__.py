"""The cases that users run: the folders of ipi_inputs/, copied for a system of their own."""

from deltaqmmm.cases.library import LIBRARY, Case, find_case, list_cases
from deltaqmmm.cases.making import BuiltSystem, check_options, make_folder, read_system
from deltaqmmm.cases.values import EDIT_MARK, Values

__all__ = [
    "EDIT_MARK",
    "LIBRARY",
    "BuiltSystem",
    "Case",
    "Values",
    "check_options",
    "find_case",
    "list_cases",
    "make_folder",
    "read_system",
]
