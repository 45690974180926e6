"""The embedded server: a small, real Tinker service that needs no key, no network and no GPU.

A request on its way:

```text
start > server > app > routes/  a POST is read (bodies), checked (validation), accepted durably (ledger)
service                         lines it up and answers; the client polls, and waits in waiters
executor < queues               gives operations and samples their turns, each model's in the order of its seq_ids
operations                      does what an operation's ticket says, with live_models and checkpoints
samplers                        lets samples grow together in batches; completions tells which have ended
engine/                         the numbers: model, gradients, optimizer, sampling
store                           keeps requests, results and records in SQLite; data_dir and files keep the rest
listings, checkpoint_records    what is kept, for REST; session_search finds sessions, traces tell of one
access, tokens                  who may ask, and what is signed
faults/                         what goes wrong on order, for tests of recovery
step_log                        what was executed, in order, and every heartbeat: by it tests judge
```

`specs` are the values that travel between these; `refusals` and `reports` say what went wrong, to clients and
to people.
"""
