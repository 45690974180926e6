"""`python -m tinker_actors` is the command `tinker-actors`."""

from tinker_actors.cli import main

if __name__ == "__main__":
    main()
