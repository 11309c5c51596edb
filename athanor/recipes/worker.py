"""One process of a step that runs in several: python -m athanor.recipes.worker FOLDER."""

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from athanor.base.device import peak_memory
from athanor.base.errors import EXIT_FAILED, AthanorError
from athanor.base.progress import SilentProgress, make_progress
from athanor.base.stopping import StopRequest
from athanor.recipes.processes import JOB, RESULT, Job, bind_device, error_file
from athanor.training.engines.part import PartDone


def main(folder: Path) -> int:
    """Run the job of a folder as the environment numbers this process; returns the exit code."""
    leave_with_parent()
    rank = int(os.environ["RANK"])
    stop = StopRequest(quiet=True).listen()
    bind_device()
    try:
        measured = Job.read(folder / JOB).run(make_progress(stop) if rank == 0 else SilentProgress(stop))
        (folder / RESULT).write_text(json.dumps({**measured, "peak_memory": peak_memory()}))
    except PartDone:
        return 0
    except AthanorError as problem:
        error_file(folder, rank).write_text(json.dumps(problem.as_row()))
        return problem.code
    except Exception:  # noqa: BLE001 - whatever it is, the process that started this one shows it
        error_file(folder, rank).write_text(json.dumps({"traceback": traceback.format_exc()}))
        return EXIT_FAILED
    return 0


def leave_with_parent() -> None:
    """End at once when the process that started this one is gone, however it ended: what is saved is whole."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(EXIT_FAILED)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stderr.flush()
    os._exit(code)  # a process group whose other processes are gone must not be waited for
