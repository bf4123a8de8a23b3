"""`python -m rbsf` is the command `rbsf`, see `rbsf.tools.command`."""

from rbsf.tools.command import main

main()
