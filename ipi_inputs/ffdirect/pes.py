"""What i-PI's <ffdirect> loads: the driver class of the installed deltaqmmm."""

from deltaqmmm.cli.ffdirect import DeltaQMMMDriver

__DRIVER_NAME__ = "deltaqmmm"
__DRIVER_CLASS__ = "DeltaQMMMDriver"
__all__ = ["DeltaQMMMDriver"]
