"""`python -m transformers_lighttoken`: the command line."""

from .cli import main

main()
