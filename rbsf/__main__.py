"""`python -m rbsf` runs the command `rbsf`; see `rbsf.tools.command`."""

from rbsf.tools.command import main

main()
