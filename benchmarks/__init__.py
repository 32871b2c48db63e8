"""What a request costs: the gateway beside Traefik and others, in CPU time on one core.

    make bench                                        # everything, in half an hour
    python -m benchmarks --case 100b --peer traefik   # a part; --help names the parts

The subject is held on one core, and everything else on another: wrk, the origin (one nginx with
several ports, each a backend), and this program. What a subject has used is read from /proc, before
and after, for all of its processes and threads. Subjects that are compared run side by side and
are measured in turns, each once per round, every other round the other way round; figures are
compared within a round, and the median of the rounds counts. So neither start-up, nor the speed
of the load generator, nor a machine that gets slower for a minute has a say.

Clients are visitors: a first request, not measured, got each the subject's own affinity cookie.
Of every answer the status, the length and the backend that gave it are checked, for uploads also
that every byte has arrived, and of the subject that all its threads have stayed on their core. One
wrong answer fails the run.

Where to find what:

- `targets.py`: what is promised; `cases.py`: what is measured, and with whom
- `subjects.py`, `peers.py`, `apps/`: who is measured, and how each is configured
- `full_speed.py`, `backends.py`, `memory.py`, `latency.py`, `websocket.py`: how each kind of
  figure is taken
- `runner.py`, `processes.py`, `proc.py`: running servers, and what Linux says of them
- `origin.py`, `echo_origin.py`, `frames.py`, `visitors.py`, `wrk.py`, `check.lua`: the load, and
  the checks
- `results.py`, `table.py`, `machine.py`: what is made of it
"""
