"""The columns of the arrays that the compiled engine works on: one row a replica, or a request."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twin.engine.telemetry import ITL_BOUNDS_S, LATENCY_BOUNDS_S, TTFT_BOUNDS_S

# Of a replica, whole numbers: what it is made of,
_column = count()
MAX_BATCH, BUDGET, KV_BLOCKS, KV_TOKENS, BLOCK, QUEUE_MAX = (next(_column) for _ in range(6))
# (a cache without bounds counts blocks of one token, but prefixes are whole blocks all the same)
PREFIX_BLOCK = next(_column)
FULL_PROMPT, AHEAD, DRAINING = (next(_column) for _ in range(3))
# whose it is, and where its part of the heaps begins, and how long that is
SERVER, HEAP, HEAP_ROOM = (next(_column) for _ in range(3))
# how it stands (slots of requests; -1 is none; PREFILL is the first that the iteration prefills),
STEPS, NEXT_TICKET, ITERATION, OUTSTANDING = (next(_column) for _ in range(4))
RUN_FIRST, RUN_LAST, RUNNING = (next(_column) for _ in range(3))
WAIT_FIRST, WAIT_LAST, WAITING = (next(_column) for _ in range(3))
PARTIAL, PREFILL, DECODES, CONTEXT_SUM, FINISHES = (next(_column) for _ in range(5))
LENGTH, RESIDUE_SUM = (next(_column) for _ in range(2))
# the next request of clients who ask again when one of theirs has ended (-1: none),
FOLLOWER = next(_column)
# and what it has counted.
PROMPT_TOKENS, GENERATION_TOKENS, FIRST_TOKENS, SUCCESSES = (next(_column) for _ in range(4))
REJECTIONS, PREEMPTIONS, PREFIX_QUERIES, PREFIX_HITS = (next(_column) for _ in range(4))
FINISHED_OUTPUT = next(_column)
REPLICA_INTS = next(_column)

# Of a replica, times and shares.
_column = count()
NEXT_S, START_S, C0_S, C1_S, DURATION_S, SEEN_S = (next(_column) for _ in range(6))
ALPHA_S, BETA_S, GAMMA_S, OVERHEAD_S, PREFIX_SHARE = (next(_column) for _ in range(5))
# The latency model in ms, unless it is the plain sum.
BETA_MS, GAMMA_MS, LAUNCH_MS, WEIGHTS_MS, P = (next(_column) for _ in range(5))
ALPHA_MS, EXPERTS_MS, EXPERTS_IDLE, IS_PLAIN = (next(_column) for _ in range(4))
ATTENTION, SEQUENCE_MS, SEQUENCE_S = (next(_column) for _ in range(3))
TTFT_SUM_S, ITL_SUM_S, E2E_SUM_S, QUEUE_SUM_S = (next(_column) for _ in range(4))
REPLICA_FLOATS = next(_column)

# Histograms of a replica, side by side.
TTFT_AT = 0
ITL_AT = TTFT_AT + len(TTFT_BOUNDS_S) + 1
E2E_AT = ITL_AT + len(ITL_BOUNDS_S) + 1
QUEUE_AT = E2E_AT + len(LATENCY_BOUNDS_S) + 1
BUCKETS = QUEUE_AT + len(LATENCY_BOUNDS_S) + 1

# Of a request. NEXT and PREVIOUS are its neighbours in the batch or in the queue.
_column = count()
ID, PROMPT, OUTPUT, REQUEST_PREEMPTIONS, GENERATED, CONTEXT, OFFSET = (
    next(_column) for _ in range(7)
)
TICKET, CHUNK, ADMITTED, NEXT, PREVIOUS = (next(_column) for _ in range(5))
REQUEST_INTS = next(_column)
_column = count()
ARRIVAL_S, SUBMITTED_S, FIRST_S, LAST_S = (next(_column) for _ in range(4))
REQUEST_FLOATS = next(_column)

# Of an ended request: how it is recorded, which slot it had, and when its replica ended it.
_column = count()
LOG_SERVER, LOG_ID, LOG_PROMPT, LOG_OUTPUT, LOG_PREEMPTIONS, LOG_OUTCOME, LOG_REASON, LOG_SLOT = (
    next(_column) for _ in range(8)
)
LOG_INTS = next(_column)
_column = count()
LOG_ARRIVAL_S, LOG_FIRST_S, LOG_END_S, LOG_ENGINE_S = (next(_column) for _ in range(4))
LOG_FLOATS = next(_column)

# What a scrape takes of a replica: twin.engine.telemetry.Counters without its sums, and its gauges
# behind them.
_column = count()
S_SUCCESSES, S_FINISHED_TOKENS, S_PROMPT, S_GENERATION, S_TTFT, S_ITL, S_PREEMPTIONS = (
    next(_column) for _ in range(7)
)
S_PREFIX_QUERIES, S_PREFIX_HITS = (next(_column) for _ in range(2))
S_RUNNING, S_WAITING, S_QUEUED_PROMPT = (next(_column) for _ in range(3))
SCRAPED_INTS = next(_column)
_column = count()
S_TTFT_SUM, S_ITL_SUM, S_KV_USAGE = (next(_column) for _ in range(3))
SCRAPED_FLOATS = next(_column)

# What a call does to one server: which it is; between which places of the rows of the call those
# stand that its requests are routed to, and those that go on and are read; between which places its
# requests stand, and the number of the first; how they are routed, where its draws begin, and whose
# turn it is. Afterwards, whose turn it is then and how many tokens their prompts had.
_column = count()
V_SERVER, V_ROUTED, V_ROUTED_END, V_READ, V_READ_END = (next(_column) for _ in range(5))
V_BEGIN, V_END, V_NUMBER, V_HOW, V_DRAWS, V_TURN, V_TOKENS = (next(_column) for _ in range(7))
VISIT_INTS = next(_column)

# What a sample is, by visit and by instant of a scrape: the totals of the server (counters, then
# buckets), what has come since the visit began and the tokens of its prompts, what runs and waits.
_column = count(S_RUNNING + BUCKETS)
T_CAME, T_TOKENS, T_RUNNING, T_WAITING = (next(_column) for _ in range(4))
SAMPLE_INTS = next(_column)

# Whether to read replicas; or to write what is in flight to the log.
READ, LIST = 1, 2

# What is handed over by its address: arrays of whole numbers (of the state below, of the last
# scrapes and one that is read, totals by server, an order of replicas; then what is of one call),
_column = count()
A_INTS, A_BUCKETS, A_COUNTS, A_KEYS, A_SLOTS, A_REQUESTS = (next(_column) for _ in range(6))
A_POOL, A_SIZES, A_LOG = (next(_column) for _ in range(3))
A_LAST, A_LAST_BUCKETS, A_SCRATCH, A_SCRATCH_BUCKETS = (next(_column) for _ in range(4))
A_TOTALS, A_LEAST = (next(_column) for _ in range(2))
A_VISITS, A_ROWS, A_PROMPTS, A_OUTPUTS, A_SAMPLES = (next(_column) for _ in range(5))
INT_ARRAYS = next(_column)
# arrays of floats, likewise,
_column = count()
F_FLOATS, F_TIMES, F_LOG_TIMES, F_LAST, F_SCRATCH = (next(_column) for _ in range(5))
F_TOTALS, F_DUE = (next(_column) for _ in range(2))
F_ARRIVALS, F_DRAWS, F_SCRAPES, F_SAMPLES = (next(_column) for _ in range(4))
FLOAT_ARRAYS = next(_column)
# how long they are, and the whole numbers of a call,
_column = count()
N_REPLICAS, N_RESIDUES, N_HEAP, N_SLOTS, N_LOG, N_SERVERS, N_ORDER = (
    next(_column) for _ in range(7)
)
N_VISITS, N_ROWS, N_REQUESTS, N_DRAWS, N_SCRAPES = (next(_column) for _ in range(5))
SLOT, WHAT = (next(_column) for _ in range(2))
SIZES = next(_column)
# and its instants.
NOW_S, AFTER_S, UNTIL_S = range(3)
INSTANTS = 3

# How to choose a replica.
ROUND_ROBIN, RANDOM, LEAST_OUTSTANDING = range(3)

UNBOUNDED = 1 << 60
"""A bound that nothing reaches: of a KV cache or of a queue without one."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class State(NamedTuple):
    """The arrays of all replicas. counts[r] are the decodes of replica r per residue; its heap of
    finishes stands in keys and slots from ints[r, HEAP] on; pool is the stack of free slots; sizes
    are (free slots, rows of the log).
    """

    ints: Ints
    floats: Floats
    buckets: Ints
    counts: Ints
    keys: Ints
    slots: Ints
    requests: Ints
    times: Floats
    pool: Ints
    sizes: Ints
    log: Ints
    log_times: Floats
