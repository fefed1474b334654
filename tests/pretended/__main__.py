"""Several things on a pretended GPU in one process, which imports everything once.

``python -m tests.pretended '[[NAME, MODULE, [WORD, ...]], ...]'`` prints JSON, a line a result:
``[NAME, {...}]``.
"""

from __future__ import annotations

import json
import sys

from soarbench.common.imports import large_imports


def main() -> None:
    """Run what the command line asks for, one after the other."""
    with large_imports():
        from tests.pretended import inference, judges, training
    modules = {"inference": inference, "judges": judges, "training": training}
    for name, module, words in json.loads(sys.argv[1]):
        for result in modules[module].results(words):
            sys.stdout.write(json.dumps([name, result]) + "\n")


if __name__ == "__main__":
    main()
