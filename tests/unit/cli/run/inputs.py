"""i-PI inputs and command lines for the tests of `deltaqmmm run`."""

from deltaqmmm.cli import run_plan
from deltaqmmm.cli.main import make_parser

CONFIG = '[system]\ntopology = "{topology}"\n[qm]\natoms = "0-11"\n{more}'
INPUT = """\
<simulation>
  <output prefix='run'> <properties filename='out'> [ step ] </properties> <checkpoint filename='chk'/> </output>
  <total_steps> 20 </total_steps>
  {forcefields}
  <system> <initialize nbeads='1'> <file mode='{mode}'> {init} </file> </initialize> </system>
</simulation>
"""
SOCKET = "<ffsocket name='{name}' mode='{mode}'> <address> {address} </address> {more} </ffsocket>"
OUTPUT = "<output prefix='run'> <checkpoint filename='chk'/> </output>"
CHECKPOINT = f"<simulation>{OUTPUT}<step>{{step}}</step><total_steps>20</total_steps>{{more}}</simulation>"


def ffsocket(name="all", mode="unix", address="here", more=""):
    return SOCKET.format(name=name, mode=mode, address=address, more=more)


def options(work, *flags):
    return make_parser().parse_args(["run", str(work.folder), *flags])


def plan(work, *flags):
    return run_plan.make_plan(options(work, *flags))
