"""`unrolled score` in windows of a few kilobytes, which kills itself at its n-th dealing with the disk.

    python -m tests.app.scoring.killed N before|after|torn score --model …

N is 0 for never. "torn" writes half of a journal's line before it dies.
"""

import os
import signal
import sys
from pathlib import Path

from app.cli import main
from app.scoring import journal, planning

planning.MOST_WINDOW = 1024 * 400
number, when = int(sys.argv[1]), sys.argv[2]
done = 0


def dying(function):
    def called(*arguments, **given):
        global done
        done += 1
        if done == number and when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **given)
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


def torn(self, line):
    global done
    done += 1
    if done == number:
        self._file.write(b'{"first": 0, "ro')
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, line)


append = journal.Journal._append
if when == "torn":
    journal.Journal._append = torn
else:
    os.fsync, os.replace, Path.rename = dying(os.fsync), dying(os.replace), dying(Path.rename)
main(sys.argv[3:])
