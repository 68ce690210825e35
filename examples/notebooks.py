"""Runs the notebooks beside it, each in a kernel of its own and in an empty folder, and prints JSON of their seconds.

    python examples/notebooks.py                     # all, in their small form
    python examples/notebooks.py --full 05 07        # two of them, with larger slides and longer training
    python examples/notebooks.py --write 01          # keeps the outputs, made small

Needs `pip install "digipath[notebooks]"`. A cell that fails ends the run with its notebook's name and its traceback.
The environment variable DIGIPATH_EXAMPLES, "small" or "full", tells a notebook its size. *seconds* are by the clock,
from the start of the kernel to its end; the small form of each should take at most 40 on two cores that do nothing
else, with `--jobs 1`.

What is kept has no times and no versions, pictures as JPEG, no picture twice, and nothing of standard error. Outputs
that name a folder of this machine are refused.
"""

import argparse
import base64
import io
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).parent
LIMIT = 300_000
"""Bytes of a notebook at most."""

ABSOLUTE = re.compile(r"(?<![\w./:<])(?:/(?:home|Users|tmp|var|root|work|usr|opt|mnt|private)/|[A-Z]:\\)")
"""A folder of some machine."""

_CELL_SECONDS, _START_SECONDS = 1800, 300
_WIDEST, _QUALITY, _TINY = 820, 72, 12_000  # pixels, of JPEG, and bytes of a PNG that may stay one


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="first signs of the files' names; by default all")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", dest="form", action="store_const", const="small", default="small", help="the default")
    size.add_argument("--full", dest="form", action="store_const", const="full")
    parser.add_argument("--write", action="store_true", help="keep the outputs in the notebooks")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="how many at a time")
    return parser.parse_args()


def chosen(names: Sequence[str]) -> list[Path]:
    """The notebooks whose names begin like this, in order."""
    found = sorted(HERE.glob("[0-9][0-9]-*.ipynb"))
    unknown = [name for name in names if not any(path.name.startswith(name) for path in found)]
    if unknown:
        sys.exit(f"notebooks are {', '.join(path.stem for path in found)}; none begins with {', '.join(unknown)}.")
    return [path for path in found if not names or path.name.startswith(tuple(names))]


def executed(path: Path) -> tuple[dict[str, Any], float]:
    """A notebook with fresh outputs, as its JSON is, and how long it took.

    Raises:
        RuntimeError: A cell failed, or the kernel did not start or died.
    """
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal

    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sockets:
        # Sockets in a folder of our own: nobody else on this machine can speak to the kernel, or listen.
        private = {} if os.name == "nt" else {"transport": "ipc", "ip": f"{sockets}/kernel"}
        client = NotebookClient(
            notebook,
            km=AsyncKernelManager(kernel_name="python3", **private),
            timeout=_CELL_SECONDS,
            startup_timeout=_START_SECONDS,
            resources={"metadata": {"path": folder}},
            record_timing=False,
        )
        try:
            client.execute(cleanup_kc=True)
        except (CellControlSignal, TimeoutError) as error:
            raise RuntimeError(re.sub(r"\x1b\[[\d;]*m", "", str(error))) from error
    return json.loads(nbformat.writes(notebook)), time.perf_counter() - began


def tidied(notebook: dict[str, Any]) -> dict[str, Any]:
    """The same with small outputs and nothing of the machine that made them."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        cells.append(cell | {"metadata": {}, "id": f"cell-{number:02d}"})
        if cell["cell_type"] == "code":
            cells[-1]["outputs"] = _joined(_kept(one) for one in cell["outputs"] if one.get("name") != "stderr")
    return notebook | {"cells": cells, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}}}


def _joined(outputs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Text that was printed in pieces, as one."""
    result: list[dict[str, Any]] = []
    for output in outputs:
        if result and output["output_type"] == result[-1]["output_type"] == "stream":
            text = "".join([*result[-1]["text"], *output["text"]])
            result[-1] = result[-1] | {"text": text.splitlines(keepends=True)}
        else:
            result.append(output)
    return result


def _kept(output: dict[str, Any]) -> dict[str, Any]:
    """An output whose picture is a JPEG, or is left out where the HTML beside it has one."""
    if "data" not in output:
        return output
    data = dict(output["data"])
    picture = data.pop("image/png", None)
    if picture is not None and "text/html" not in data:
        kind, text = _compressed("".join(picture))
        data[kind] = text
    return output | {"data": data, "metadata": {}}


def _compressed(picture: str) -> tuple[str, str]:
    """Media type and base64 of a PNG in base64, made small."""
    raw = base64.b64decode(picture)
    image = Image.open(io.BytesIO(raw)).convert("RGB")
    if len(raw) <= _TINY and image.width <= _WIDEST:
        return "image/png", base64.b64encode(raw).decode()
    if image.width > _WIDEST:
        image = image.resize((_WIDEST, round(image.height * _WIDEST / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "image/jpeg", base64.b64encode(buffer.getvalue()).decode()


def written(notebook: dict[str, Any]) -> str:
    """The text of the file."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def faults(notebook: dict[str, Any]) -> list[str]:
    """Why a notebook with its outputs should not be passed on."""
    size = len(written(notebook).encode())
    found = [f"it has {size:,} bytes, and may have {LIMIT:,}"] if size > LIMIT else []
    for cell in notebook["cells"]:
        told = "\n".join(_words(output) for output in cell.get("outputs", []))
        if match := ABSOLUTE.search(told):
            found.append(f"it names a folder of this machine: {told[match.start() : match.start() + 60]!r}")
        if re.search(rf"\b{re.escape(socket.gethostname())}\b", told):
            found.append(f"it names this machine, after {''.join(cell['source'])[:60]!r}")
        if "\r" in told or "it/s" in told:
            found.append(f"it shows a progress bar, after {''.join(cell['source'])[:60]!r}")
    return found


def _words(output: dict[str, Any]) -> str:
    """What an output says, without its pictures."""
    data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
    parts = [*output.get("text", []), *output.get("traceback", []), *("".join(value) for value in data.values())]
    return re.sub(r"base64,[\w+/=]+", "", "".join(parts))


def main() -> None:
    options = arguments()
    os.environ |= {"DIGIPATH_EXAMPLES": options.form, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    paths, seconds, wrong = chosen(options.names), {}, {}
    with ThreadPoolExecutor(options.jobs) as threads:
        for path, future in [(path, threads.submit(executed, path)) for path in paths]:
            try:
                notebook, seconds[path.stem] = future.result()
            except RuntimeError as error:  # a cell has failed, or the kernel did not start
                wrong[path.stem] = [str(error)]
                continue
            notebook = tidied(notebook)
            wrong |= {path.stem: found} if (found := faults(notebook)) else {}
            if options.write and not found:
                path.write_text(written(notebook), encoding="utf-8")
    for name, found in wrong.items():
        print(f"{name}: " + "\n".join(found), file=sys.stderr)
    told = {"form": options.form, "jobs": options.jobs, "seconds": {name: round(s, 1) for name, s in seconds.items()}}
    print(json.dumps(told, indent=2))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
