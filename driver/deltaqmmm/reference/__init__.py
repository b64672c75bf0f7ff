"""Reference labels from PySCF, computed by many processes. Nothing outside this package imports PySCF."""

from deltaqmmm.reference.settings import ReferenceSettings

__all__ = ["ReferenceSettings"]
