#!/usr/bin/env python3
"""Lists Rust files of more than 500 lines and functions of more than 60, largest first."""
import pathlib
import re
import subprocess

FILE_LINES, FUNCTION_LINES = 500, 60
FUNCTION = re.compile(r"^(\s*)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe )*fn (\w+)")


def functions(lines):
    """Yields (name, first line, length) for functions in stock rustfmt layout."""
    for number, line in enumerate(lines):
        found = FUNCTION.match(line)
        if not found:
            continue
        end = found.group(1) + "}"
        for last in range(number, len(lines)):
            if lines[last].rstrip() == end:
                yield found.group(2), number + 1, last - number + 1
                break
            if lines[last].rstrip().endswith(";") and "{" not in "".join(lines[number : last + 1]):
                break


def main():
    names = subprocess.run(["git", "ls-files", "*.rs"], capture_output=True, text=True, check=True).stdout.split()
    large = []
    for name in names:
        lines = pathlib.Path(name).read_text().splitlines()
        if len(lines) > FILE_LINES:
            large.append((len(lines), name, "file"))
        large += [(length, f"{name}:{start}", f"fn {function}")
                  for function, start, length in functions(lines) if length > FUNCTION_LINES]
    for length, place, what in sorted(large, reverse=True):
        print(f"{length:5}  {place}  {what}")


if __name__ == "__main__":
    main()
