"""Print the oldest version of each package that setup.cfg allows, as constraints for pip (``make
test-oldest``).
"""

from __future__ import annotations

import configparser
from pathlib import Path

from packaging.requirements import Requirement

SETUP = Path(__file__).parents[2] / "setup.cfg"


def floors(setup: Path = SETUP) -> dict[str, str]:
    """Package name -> its lowest version, of all requirements that state one."""
    config = configparser.ConfigParser()
    config.read(setup, encoding="utf-8")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    found: dict[str, str] = {}
    for requirement in map(Requirement, filter(None, "\n".join(texts).splitlines())):
        for each in requirement.specifier:
            if each.operator in (">=", "=="):
                found[requirement.name] = each.version
    return found


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in sorted(floors().items())))
