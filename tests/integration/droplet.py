"""The system of tests that run the whole program: one QM water in a droplet, a step of which takes milliseconds."""

ONE_WATER = """\
[system]
topology = "{systems}/uracil_droplet.prmtop"
coordinates = "{systems}/uracil_droplet.rst7"
[qm]
atoms = "12-14"
[embedding]
kind = "all"
[mm]
platform = "Reference"
[driver]
threads = 1
"""
