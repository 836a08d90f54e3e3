"""`python -m tgi` is `tgi`."""

from tgi.cli.main import main

if __name__ == "__main__":
    main()
