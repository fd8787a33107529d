"""`python -m sweep`: see README.md."""

from sweep.launch import main

if __name__ == "__main__":
    main()
