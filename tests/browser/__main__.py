"""`python -m tests.browser install`: Debian's Chromium and a font, if they are missing (as root)."""

import sys

from tests.browser.chromium import INSTALL_LINE, PACKAGES, find_chromium
from tests.slurm_lab.errors import LabError
from tests.slurm_lab.packages import can_install, install_packages


def main() -> int:
    if sys.argv[1:] != ["install"]:
        print(__doc__, file=sys.stderr)
        return 2
    if find_chromium():
        print("Chromium is there", file=sys.stderr)
        return 0
    if not can_install():
        print(f"tests of the report need a browser; as root: {INSTALL_LINE}", file=sys.stderr)
        return 1
    try:
        install_packages([*PACKAGES])
    except LabError as error:
        print(f"browser: {error}", file=sys.stderr)
        return 1
    print(f"installed: {' '.join(PACKAGES)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
