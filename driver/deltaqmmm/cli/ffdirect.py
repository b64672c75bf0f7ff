"""deltaqmmm inside i-PI's own process: the file that `<ffdirect>` loads.

In the i-PI input, with deltaqmmm installed beside i-PI::

    <ffdirect name='qmmm' threaded='True'>
      <pes> custom </pes>
      <pes_path> .../deltaqmmm/cli/ffdirect.py </pes_path>
      <parameters> { config: config.toml } </parameters>
      <batch_size> 4 </batch_size>
    </ffdirect>

The path of this file: ``python -c "import deltaqmmm.cli.ffdirect as f; print(f.__file__)"``. A relative path of the
configuration is relative to the folder in which i-PI runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deltaqmmm.cli.console import describe
from deltaqmmm.cli.order import CheckedOrder
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.errors import ConfigError
from deltaqmmm.ipi import DirectDriver, ExpectedFrames

__DRIVER_NAME__ = "deltaqmmm"
__DRIVER_CLASS__ = "DeltaQMMMDriver"


class DeltaQMMMDriver(DirectDriver):
    """The potential of a configuration file, callable as i-PI's PES drivers are."""

    def __init__(self, config: str = "", terms: str = "", verbosity: object = None) -> None:
        """Load everything.

        Args:
            config: Path of the configuration file.
            terms: The terms to serve, separated by spaces (i-PI splits at commas); empty for all.
            verbosity: i-PI hands it over; not used.

        Raises:
            DeltaqmmmError: The configuration cannot be used.
        """
        if not config:
            raise ConfigError(
                "<ffdirect> needs the configuration file: <parameters> { config: config.toml } </parameters>."
            )
        loaded = load_potential(read_config(Path(config)), terms.split() if terms else None)
        print(describe(loaded), file=sys.stderr)
        self.potential = loaded.potential
        evaluate = CheckedOrder(loaded.evaluate, loaded.topology, loaded.system)
        super().__init__(evaluate, ExpectedFrames(loaded.system.n_atoms, loaded.system.periodic))
