"""`python -m lbctl`."""

from lbctl.cli import main

if __name__ == "__main__":
    main()
