"""`python -m pagecli` is the same program as `pagecli`."""

from pagecli.cli.app import main

if __name__ == "__main__":
    main()
