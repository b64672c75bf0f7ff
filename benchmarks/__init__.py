"""Times the driver beside other programs and beside what no version of it can beat: `python -m benchmarks --help`."""
