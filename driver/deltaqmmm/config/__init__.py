"""One TOML file in, a checked configuration out; `config.loading` makes it a potential.

`config.loading` is not imported here: it takes torch and OpenMM, which `--help` and messages can do without.
"""

from deltaqmmm.config.explaining import explain_keys
from deltaqmmm.config.reading import read_config
from deltaqmmm.config.sections import SECTIONS, Config

__all__ = ["SECTIONS", "Config", "explain_keys", "read_config"]
