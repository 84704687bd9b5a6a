"""The command line: thin over `colony.runtime`, one small module per kind of command.

============  ==================================================================================
app           the commands and their help panels; the one place that turns errors into exit codes
options       options that several commands share
connection    options ▸ settings ▸ an open runtime; which colony is meant
durations     "90s", "2h30m", "PT10M" ▸ timedelta
output        for people (tables, clean text) and for machines (JSON)
producers     spawn, wait
batches       batch: a file of tasks, and its reports as they arrive
taskfile      the tasks of such a file, and what is wrong with a line
harvest       waiting for workers and batches: a bar, what is printed, the exit code
views         list, show
trees         tree: a worker with its descendants
limits        limit: the caps of admission
operators     events, stop, retry, stats, pause, resume
top           top: the fleet at work, live
transcript    a stored conversation, readable
quarantine    quarantine list, show, retry, drop
nodes         worker, beat, drain; a node as a child process
up            up: a fleet in one terminal, with --all also beat, gateway and Flower
processes     processes that end in order, and with their owner
gateway       gateway: the verbs over HTTP
flower        flower: Celery's monitor, made to show agents
tokens        token create, list, revoke
demo          the survey on an embedded Redis
doctor        what is wrong, and what to do about it
============  ==================================================================================

Results go to stdout, everything else (progress, hints, errors) to stderr. Exit codes: 0 done;
1 it did not work, or a report says so; 2 wrong usage; 130 interrupted.
"""

from colony.cli.app import app, main

__all__ = ["app", "main"]
