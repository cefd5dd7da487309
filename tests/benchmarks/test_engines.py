"""What engines cost: whose time is counted, and how it is told."""

import subprocess
import sys

import engines
from engines import Taken

BUSY = """
import sys, time
while time.process_time() < 0.3: pass
print("done", flush=True)
sys.stdin.read()
"""


def test_processes_below_are_counted_after_their_end():
    cores = engines.Cores()
    before = cores.total()
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        alive = cores.total()
    assert alive - before > 0.25
    assert cores.total() >= alive


def test_the_table_has_medians_and_what_ray_exceeds_them_by():
    rounds = {
        "local": [{"mixture": Taken(2, 1), "evaluation": Taken(n, 4)} for n in (4, 2, 9)],
        "ray": [{"mixture": Taken(3, 2), "evaluation": Taken(6, n)} for n in (7, 6, 1)],
    }
    assert engines.table(rounds).splitlines()[2:] == [
        "| mixture | 2.0 | 3.0 | 1.0 | 1.50 | 1.0 | 2.0 | 1.0 | 2.00 |",
        "| evaluation | 4.0 | 6.0 | 2.0 | 1.50 | 4.0 | 6.0 | 2.0 | 1.50 |",
        "| together | 6.0 | 9.0 | 3.0 | 1.50 | 5.0 | 8.0 | 3.0 | 1.60 |",
    ]
